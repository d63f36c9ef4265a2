//! Random bytes of the operating system.

/// Fills a buffer. Without random bytes nothing can go on.
pub fn fill(buffer: &mut [u8]) {
    if let Err(error) = getrandom::fill(buffer) {
        // Documented invariant: a system without random numbers cannot run a server.
        panic!("the operating system gives no random numbers: {error}");
    }
}

/// So many.
pub fn bytes<const N: usize>() -> [u8; N] {
    let mut buffer = [0; N];
    fill(&mut buffer);
    buffer
}
