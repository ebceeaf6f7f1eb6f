"""The REST service: the documents it publishes, the Flask application, and gunicorn around it."""
