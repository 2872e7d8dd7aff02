"""What ``wavedil inspect`` prints and draws: schedules and models as numbers, text and pictures."""
