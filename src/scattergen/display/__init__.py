"""What people see: words and numbers, progress, cards in notebooks, and facts of the machine."""
