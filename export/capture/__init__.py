"""From a backbone to one captured graph with named outputs, which every format is written from."""
