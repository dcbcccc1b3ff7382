"""The training framework: the Stage protocol and the one loop that trains every stage."""
