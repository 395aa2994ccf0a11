"""Writers of site folders from packaged data."""
