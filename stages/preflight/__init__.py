"""What each command checks before it imports torch: folders, names and options."""
