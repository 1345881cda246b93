"""Where code runs, with bounds."""
