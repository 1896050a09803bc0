"""What providers tell by webhook: that a batch of theirs has ended. Believed only as a reason to ask them."""
