//! Finds the detach keys in a terminal client's input.

/// Watches for one byte sequence across reads.
#[derive(Debug)]
pub struct DetachKeys {
    keys: Vec<u8>,
    /// How many of the keys the input seen last was equal to; those bytes are held back.
    matched: usize,
}

impl DetachKeys {
    /// An empty sequence is never found.
    pub fn new(keys: Vec<u8>) -> Self {
        Self { keys, matched: 0 }
    }

    /// Appends to `out` what is input for the process; `true` when the sequence is complete. What follows it is
    /// dropped, as is the sequence itself.
    pub fn filter(&mut self, input: &[u8], out: &mut Vec<u8>) -> bool {
        if self.keys.is_empty() {
            out.extend_from_slice(input);
            return false;
        }
        for &byte in input {
            while self.matched > 0 && byte != self.keys[self.matched] {
                self.release_one(out);
            }
            if byte != self.keys[self.matched] {
                out.push(byte);
                continue;
            }
            self.matched += 1;
            if self.matched == self.keys.len() {
                self.matched = 0;
                return true;
            }
        }
        false
    }

    /// Gives up the shortest beginning of what is held back after which the rest may still begin the sequence.
    fn release_one(&mut self, out: &mut Vec<u8>) {
        let held = &self.keys[..self.matched];
        let kept = (1..=held.len())
            .find(|&skip| held[skip..] == self.keys[..held.len() - skip])
            .map_or(0, |skip| held.len() - skip);
        out.extend_from_slice(&held[..held.len() - kept]);
        self.matched = kept;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(keys: &[u8], pieces: &[&[u8]]) -> (Vec<u8>, bool) {
        let mut matcher = DetachKeys::new(keys.to_vec());
        let mut out = Vec::new();
        let found = pieces.iter().any(|piece| matcher.filter(piece, &mut out));
        (out, found)
    }

    #[test]
    fn the_sequence_is_found_across_reads() {
        assert_eq!(run(&[16, 17], &[b"ab\x10", b"\x11cd"]), (b"ab".to_vec(), true));
    }

    #[test]
    fn a_match_that_fails_is_delivered() {
        assert_eq!(
            run(&[16, 17], &[b"\x10", b"x\x10y"]),
            (b"\x10x\x10y".to_vec(), false)
        );
        assert_eq!(run(b"aab", &[b"aaab!"]), (b"a".to_vec(), true));
        assert_eq!(run(&[16, 17], &[b"\x10\x10\x11"]), (b"\x10".to_vec(), true));
    }

    #[test]
    fn no_keys_find_nothing() {
        assert_eq!(run(&[], &[b"\x10\x11"]), (b"\x10\x11".to_vec(), false));
    }
}
