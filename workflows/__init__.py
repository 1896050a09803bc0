"""What happens, in what order, and how long we wait. One module a workflow; nothing is imported here."""
