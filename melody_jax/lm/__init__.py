"""The semantic language model: 12 MuLan tokens in, 25 semantic tokens a second out."""
