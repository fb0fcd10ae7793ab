"""Content-addressed models and the channels that point to them, in a folder, on S3 or on GCS."""
