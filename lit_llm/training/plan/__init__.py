"""What a run will take, said before it starts: memory by part, tokens, arithmetic, time; and what would make it fit."""
