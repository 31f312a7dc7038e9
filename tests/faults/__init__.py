"""An HTTP server that fails on demand, for the tests of everything that talks to one."""
