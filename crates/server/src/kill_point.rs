//! A test aid: named places at which a server under test kills itself.
//!
//! Crash tests start the server as a child process with `SIMTIDE_KILL_AT="commit.before:7"` in its environment: the
//! seventh time that `commit.before` is reached the process raises SIGKILL on itself, as if the power had failed.
//! Without the variable a place costs one load of an atomic.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// Name of the variable: `name:count`, count from 1.
pub const VARIABLE: &str = "SIMTIDE_KILL_AT";

struct Armed {
    name: String,
    left: AtomicU64,
}

static ARMED: OnceLock<Option<Armed>> = OnceLock::new();

/// Says that a place was reached; does not return if it is the one to die at.
pub fn reached(name: &str) {
    let armed = ARMED.get_or_init(|| std::env::var(VARIABLE).ok().and_then(|text| parse(&text)));
    let Some(armed) = armed else { return };
    if armed.name == name && armed.left.fetch_sub(1, Ordering::SeqCst) == 1 {
        // SAFETY: plain system calls without pointers.
        unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
        // The signal is on its way: nothing after this place may run.
        loop {
            std::thread::park();
        }
    }
}

fn parse(text: &str) -> Option<Armed> {
    let (name, count) = text.rsplit_once(':')?;
    let count = count.parse().ok().filter(|count| *count > 0)?;
    Some(Armed { name: name.to_owned(), left: AtomicU64::new(count) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_variable_says() {
        let armed = parse("commit.after:12").unwrap();
        assert_eq!((armed.name.as_str(), armed.left.into_inner()), ("commit.after", 12));
        for wrong in ["", "commit", "commit:", "commit:0", "commit:x"] {
            assert!(parse(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn nothing_happens_without_the_variable() {
        reached("commit.before");
    }
}
