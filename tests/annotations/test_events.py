"""Tables of events: what they say, and what is said of those that are wrong."""

from pathlib import Path

import pytest

from captioner.annotations.events import load_events
from captioner.errors import DataError
from captioner.events.timeline import Event

HEADER = "clip,start,end,label\n"


def write(folder: Path, text: str) -> Path:
    path = folder / "events.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_events_are_gathered_by_clip(tmp_path: Path) -> None:
    table = write(
        tmp_path,
        'label,Clip , start,END,by\nwaves,a.mp4,0,1.5,me\n"sits, down",b.mp4,2,3,me\n'
        " jumps ,a.mp4,1,2,me\n,c.mp4,,,\n,,,,\n",
    )
    assert load_events(table) == {
        tmp_path / "a.mp4": (Event(0, 1.5, "waves"), Event(1, 2, "jumps")),
        tmp_path / "b.mp4": (Event(2, 3, "sits, down"),),
        tmp_path / "c.mp4": (),
    }
    elsewhere = load_events(table, tmp_path / "deep")
    assert set(elsewhere) == {tmp_path / "deep" / f"{name}.mp4" for name in "abc"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("clip,start,end\na.mp4,0,1\n", "no column 'label'.*expected clip,start,end,label"),
        ("clip;start;end;label\na.mp4;0;1;x\n", "semicolons; save the file with commas"),
        (f"{HEADER}a.mp4,0,,waves\n", 'line 2: no "end"; expected the seconds'),
        (f"{HEADER}a.mp4,,1,waves\n", 'line 2: no "start"; expected the seconds'),
        (f"{HEADER}a.mp4,soon,1,waves\n", "line 2: \"start\" is 'soon'; expected seconds"),
        (f"{HEADER}a.mp4,-1,1,waves\n", "line 2: \"start\" is '-1'; expected seconds"),
        (f"{HEADER}a.mp4,2,2,waves\n", 'line 2: "end" is 2; expected a time after "start"'),
        (f"{HEADER}a.mp4,0,1,waves\nb.mp4,0,1, \n", 'line 3: expected "label"'),
        (f"{HEADER},0,1,waves\n", 'line 2: expected "clip"'),
        (f"{HEADER}a.mp4,0,1,sits, down\n", "more values than columns; enclose a label"),
        (f"{HEADER}a.mp4,,,\n", "no events in it"),
        (HEADER, "no events in it"),
    ],
)
def test_a_wrong_table_is_refused_where_it_is_wrong(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        load_events(write(tmp_path, text))


def test_a_file_that_is_no_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        load_events(tmp_path / "none.csv")
    (tmp_path / "odd.csv").write_bytes(b"clip,start,end,label\na.mp4,0,1,\xff\n")
    with pytest.raises(DataError, match="UTF-8"):
        load_events(tmp_path / "odd.csv")
