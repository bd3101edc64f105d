"""Everything that makes and reads an ffnsearch datastore; knows nothing of gRPC."""
