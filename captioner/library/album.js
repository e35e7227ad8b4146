"use strict";
(() => {
  const controls = document.querySelector(".controls");
  const [field, status] = ["input", "[role=status]"].map((name) => controls.querySelector(name));
  const pictures = [...document.querySelectorAll("figure")];

  const search = () => {
    const wanted = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    let found = 0;
    for (const picture of pictures) {
      picture.hidden = !wanted.every((word) => picture.dataset.words.includes(word));
      found += !picture.hidden;
    }
    status.textContent = found === pictures.length ? `${found} photos` : `${found} of ${pictures.length} photos`;
  };

  field.addEventListener("input", search);
  controls.hidden = false;
  search();
})();
