"""What Millrace is measured beside: a script for each piece of work, run in an environment of its own."""
