//! The command line of a soak.

/// The value of an option.
pub(crate) fn given(name: &str) -> Option<u64> {
    let mut words = std::env::args().skip_while(|word| word != name).skip(1);
    words.next()?.parse().ok()
}
