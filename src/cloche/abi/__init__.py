"""Linux constants and struct layouts for x86-64, a module per header area.  Imports no other module of cloche."""
