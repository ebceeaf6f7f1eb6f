"""Arrow IPC streams in and out: `stream` reads them, `inputs` makes them a model's inputs, `answers` writes answers."""

#: The content type, in requests and in Accept.
MEDIA = "application/vnd.apache.arrow.stream"
