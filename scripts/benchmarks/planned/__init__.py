"""What a plan foresees beside what the run then takes."""
