"""What the command line does, a file a command: plain functions that can be called from Python as well."""
