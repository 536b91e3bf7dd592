//! TCP to stream and back: the path of one request.
