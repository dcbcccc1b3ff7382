"""People compare two folders of music by ear, without knowing which is which. Starts with `melody listen`; docs/judges.md."""
