"""Commands (`python -m experiments.<command>`) and experiment files, one idea each."""
