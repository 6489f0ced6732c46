"""Many runs side by side: grids, equal time, tables and searches."""
