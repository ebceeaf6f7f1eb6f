"""A ModelPackaging as a build, run and written down: manifests go in, references and a record come out."""
