"""What people said about answers, kept in a database: read by the data, written by the app."""
