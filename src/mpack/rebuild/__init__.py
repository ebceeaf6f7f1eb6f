"""From a build to its provenance (`record`), and from the provenance to a build (`anew`)."""
