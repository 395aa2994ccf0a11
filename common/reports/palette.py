"""The reports' colours; told apart also by shape and words, for those who do not see them and for grey paper."""

INK = "#1c2b36"
FAINT = "#b9c4cc"
RELEASED = "#0b7285"
EXACT = "#8a5a00"
SECOND = "#5b3fa0"
RED = "#b3261e"
