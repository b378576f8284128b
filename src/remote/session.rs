//! The reliable, ordered, bounded conversation of two processes, whatever becomes of the connections under it: pure.
