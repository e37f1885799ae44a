//! Makes inputs out of examples: pure, and the same for the same numbers.

/// No input is longer, so that one is quick to try and a slow parser stands out.
pub const BYTES_MAX: usize = 256 << 10;

/// What parsers stumble over: ends of number ranges, brackets, escapes, separators, paths.
const WORDS: &[&[u8]] = &[
    b"0",
    b"-1",
    b"1",
    b"255",
    b"256",
    b"65535",
    b"65536",
    b"2147483647",
    b"2147483648",
    b"4294967295",
    b"4294967296",
    b"9223372036854775807",
    b"9223372036854775808",
    b"18446744073709551615",
    b"18446744073709551616",
    b"1e308",
    b"1e-9",
    b"-0",
    b"0x10",
    b"077",
    b"null",
    b"true",
    b"false",
    b"\"\"",
    b"[]",
    b"{}",
    b"[[",
    b"{\"",
    b"\":",
    b"\\u0000",
    b"\\ud800",
    b"..",
    b"/",
    b"//",
    b"../",
    b":",
    b"@",
    b"@sha256:",
    b"=",
    b",",
    b"%",
    b"%00",
    b"%zz",
    b"\0",
    b"\n",
    b"\r\n",
    b"\xff",
    b"\xc3\x28",
    b"\xe2\x80\xa8",
    "\u{202e}".as_bytes(),
    b"{{",
    b"}}",
    b"{{.",
    b"{{range",
    b"{{end}}",
    b"(",
    b")",
    b"|",
    b"-",
    b"--",
    b"=true",
    b".wh.",
    b".wh..wh..opq",
    b"sha256:",
    b"\x1f\x8b",
    b"\x28\xb5\x2f\xfd",
    b"ustar\0",
    b"\xff\xff\xff\xff",
    b"\0\0\0\0\0\0\0\0",
];

/// The `number`th input: the first ones are the examples themselves.
pub fn input(examples: &[&[u8]], seed: u64, number: u64) -> Vec<u8> {
    if let Some(example) = examples.get(number as usize) {
        return example.to_vec();
    }
    let mut random =
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ number.wrapping_mul(0xd134_2543_de82_ef95) | 1);
    let mut bytes = random
        .pick(examples)
        .map_or_else(Vec::new, |example| example.to_vec());
    for _ in 0..=random.below(8) {
        mutate(&mut bytes, examples, &mut random);
    }
    bytes.truncate(BYTES_MAX);
    bytes
}

fn mutate(bytes: &mut Vec<u8>, examples: &[&[u8]], random: &mut Random) {
    let (from, to) = random.range(bytes.len());
    match random.below(10) {
        0 => drop(bytes.drain(from..to)),
        1 => bytes.truncate(from),
        2 => insert(bytes, from, random.pick(WORDS).copied().unwrap_or_default()),
        3 => drop(bytes.splice(
            from..to,
            random.pick(WORDS).copied().unwrap_or_default().iter().copied(),
        )),
        4 => {
            let part = bytes[from..to].to_vec();
            insert(bytes, from, &part);
        }
        5 => repeat(bytes, from, to, random),
        6 => {
            let other = random.pick(examples).copied().unwrap_or_default();
            let (first, last) = random.range(other.len());
            drop(bytes.splice(from..to, other[first..last].iter().copied()));
        }
        7 => bytes[from..to].reverse(),
        8 => change(bytes, from, |byte| byte ^ (1 << (from % 8))),
        _ => {
            let new = random.below(256) as u8;
            change(bytes, from, |_| new);
        }
    }
}

fn change(bytes: &mut [u8], at: usize, change: impl Fn(u8) -> u8) {
    if let Some(byte) = bytes.get_mut(at) {
        *byte = change(*byte);
    }
}

fn insert(bytes: &mut Vec<u8>, at: usize, part: &[u8]) {
    drop(bytes.splice(at..at, part.iter().copied()));
}

/// Depth and length: a small part very often.
fn repeat(bytes: &mut Vec<u8>, from: usize, to: usize, random: &mut Random) {
    let part = bytes[from..to.min(from + 16)].to_vec();
    let count = [3, 100, 4000][random.below(3) as usize];
    if bytes.len() + part.len() * count <= BYTES_MAX {
        insert(bytes, from, &part.repeat(count));
    }
}

/// xorshift64*: small, and good enough to choose bytes by.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 8
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        if from.is_empty() {
            return None;
        }
        from.get(self.below(from.len() as u64) as usize)
    }

    /// A range within `length`, mostly a short one.
    fn range(&mut self, length: usize) -> (usize, usize) {
        let from = self.below(length as u64 + 1) as usize;
        let longest = if self.below(4) == 0 {
            length - from
        } else {
            (length - from).min(12)
        };
        (from, from + self.below(longest as u64 + 1) as usize)
    }
}
