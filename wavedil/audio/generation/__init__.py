"""Generation of sound: ``generate`` and ``stream``, and the engines that compute the samples."""
