"""An operator who has put another `server` in front of the real one."""
