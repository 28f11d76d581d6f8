"""What the works on preferences and on instructions share: data, stages in a loop of their own, TRL's trainers."""
