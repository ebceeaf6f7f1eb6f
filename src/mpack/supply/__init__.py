"""What an image is made of and how it was made, in documents outside its digest: SBOM, provenance, signatures."""
