"""The adapter file and the merged model file."""
