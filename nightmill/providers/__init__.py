"""The providers' batch APIs behind one interface, `nightmill.providers.base.BatchProvider`; one module each."""
