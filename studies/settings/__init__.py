"""What a study is told, what it records, and where that came from."""
