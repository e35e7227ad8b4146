"""How captions hold up where photos are damaged, by chance or on purpose."""
