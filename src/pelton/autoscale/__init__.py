"""How many: pure scaling algorithms; time comes in as an argument."""
