"""The command line of the image: predict over files, info, self-check. Starts fast: heavy imports come late."""
