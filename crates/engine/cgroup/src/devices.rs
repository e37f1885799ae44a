//! Which devices the processes of a cgroup may open, read, write and make.
//!
//! Rules are a list, and for each of the three permissions the last rule that names the device decides; where none
//! does, the device is refused. v1 takes such a list line by line. v2 takes a BPF program, which is compiled here:
//!
//! ```text
//!   load type, access, major, minor                       remaining = access asked for
//!   for each rule, last first:
//!       device differs         → next rule
//!       rule denies            → refuse if it has any remaining bit
//!       rule allows            → clear its bits from remaining; allow when none remains
//!   refuse
//! ```

use crate::cgroup::Cgroup;
use crate::error::{CgroupError, Result};
use crate::hierarchy::{Root, join, write_value};
use naru_sys::bpf::{self, Instruction};
use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceCgroupBuilder, LinuxDeviceType};
use std::os::fd::AsFd;

/// The kernel's bits of `struct bpf_cgroup_dev_ctx.access_type`, upper half.
const MKNOD: u32 = 1;
const READ: u32 = 2;
const WRITE: u32 = 4;
const EVERY_ACCESS: u32 = MKNOD | READ | WRITE;

/// The kernel's device kinds in `access_type`, lower half.
const BLOCK: u32 = 1;
const CHARACTER: u32 = 2;

/// A rule with its words read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rule {
    allow: bool,
    /// `None`: both kinds.
    kind: Option<u32>,
    major: Option<u32>,
    minor: Option<u32>,
    access: u32,
}

impl Rule {
    fn parse(rule: &LinuxDeviceCgroup) -> Result<Self> {
        let kind = match rule.typ() {
            None | Some(LinuxDeviceType::A) => None,
            Some(LinuxDeviceType::B) => Some(BLOCK),
            Some(LinuxDeviceType::C | LinuxDeviceType::U) => Some(CHARACTER),
            Some(other) => return Err(invalid(format!("type {other:?}"))),
        };
        let access = match rule.access().as_deref() {
            None | Some("") => EVERY_ACCESS,
            Some(letters) => parse_access(letters)?,
        };
        let [major, minor] = [rule.major(), rule.minor()].map(parse_number);
        Ok(Self {
            allow: rule.allow(),
            kind,
            major: major?,
            minor: minor?,
            access,
        })
    }

    fn is_for_everything(&self) -> bool {
        *self
            == Self {
                allow: self.allow,
                kind: None,
                major: None,
                minor: None,
                access: EVERY_ACCESS,
            }
    }
}

fn invalid(what: impl std::fmt::Display) -> CgroupError {
    CgroupError::InvalidLimit {
        reason: format!("device rule with {what}"),
    }
}

fn parse_access(letters: &str) -> Result<u32> {
    letters.chars().try_fold(0, |bits, letter| match letter {
        'r' => Ok(bits | READ),
        'w' => Ok(bits | WRITE),
        'm' => Ok(bits | MKNOD),
        _ => Err(invalid(format!("access {letters:?}"))),
    })
}

/// Absent and -1 both stand for every number.
fn parse_number(number: Option<i64>) -> Result<Option<u32>> {
    match number {
        None | Some(-1) => Ok(None),
        Some(number) => u32::try_from(number)
            .map(Some)
            .map_err(|_| invalid(format!("number {number}"))),
    }
}

/// What Docker allows in every container: to make any node, and to use the harmless ones, terminals and tunnels.
pub fn default_device_rules() -> Vec<LinuxDeviceCgroup> {
    let everything = device_rule(false, LinuxDeviceType::A, None, None, "rwm");
    let make_any =
        [LinuxDeviceType::C, LinuxDeviceType::B].map(|typ| device_rule(true, typ, None, None, "m"));
    // null, zero, full, tty, random, urandom, console, ptmx, every pts, and tun: numbers from the kernel's devices.txt.
    let usable = [
        (1, Some(3)),
        (1, Some(5)),
        (1, Some(7)),
        (5, Some(0)),
        (1, Some(8)),
        (1, Some(9)),
        (5, Some(1)),
        (5, Some(2)),
        (136, None),
        (10, Some(200)),
    ];
    let usable =
        usable.map(|(major, minor)| device_rule(true, LinuxDeviceType::C, Some(major), minor, "rwm"));
    [everything].into_iter().chain(make_any).chain(usable).collect()
}

fn device_rule(
    allow: bool,
    typ: LinuxDeviceType,
    major: Option<i64>,
    minor: Option<i64>,
    access: &str,
) -> LinuxDeviceCgroup {
    let mut builder = LinuxDeviceCgroupBuilder::default()
        .allow(allow)
        .typ(typ)
        .access(access);
    if let Some(major) = major {
        builder = builder.major(major);
    }
    if let Some(minor) = minor {
        builder = builder.minor(minor);
    }
    builder.build().expect("no field of a device rule is required")
}

impl Cgroup {
    /// Makes these rules the cgroup's only ones. An empty list changes nothing.
    pub fn apply_devices(&self, rules: &[LinuxDeviceCgroup]) -> Result<()> {
        if rules.is_empty() {
            return Ok(());
        }
        let rules = rules.iter().map(Rule::parse).collect::<Result<Vec<_>>>()?;
        let hierarchy = self.hierarchy();
        match (hierarchy.root_with("devices"), hierarchy.unified()) {
            (Some(root), _) => self.write_device_rules(root, &rules),
            (None, Some(root)) => self.attach_device_filter(root, &rules),
            (None, None) => Err(CgroupError::Unsupported {
                limit: "devices".to_owned(),
                needs: "controller devices".to_owned(),
            }),
        }
    }

    fn write_device_rules(&self, root: &Root, rules: &[Rule]) -> Result<()> {
        let open = |name: &str| {
            let file = join(self.relative(), name);
            root.open_for_writing(&file)
                .map_err(|error| CgroupError::io("open", root.display(&file), error))
        };
        let (allow, deny) = (open("devices.allow")?, open("devices.deny")?);
        // The kernel starts from what the parent has, our list from nothing.
        let starts_clean = rules.first().is_some_and(Rule::is_for_everything);
        let first = if starts_clean {
            None
        } else {
            Some((false, "a".to_owned()))
        };
        for (allows, line) in first.into_iter().chain(rules.iter().flat_map(v1_lines)) {
            let (file, name) = if allows {
                (&allow, "devices.allow")
            } else {
                (&deny, "devices.deny")
            };
            write_value(file.as_fd(), &line).map_err(|error| CgroupError::Refused {
                cgroup: self.path(),
                file: name.to_owned(),
                value: line,
                source: error.into(),
            })?;
        }
        Ok(())
    }

    fn attach_device_filter(&self, root: &Root, rules: &[Rule]) -> Result<()> {
        let failed = |log: String, source: std::io::Error| CgroupError::DeviceFilter {
            cgroup: self.path(),
            log: if log.is_empty() {
                "said nothing".to_owned()
            } else {
                log
            },
            source,
        };
        let directory = root
            .open_directory(self.relative())
            .map_err(|error| CgroupError::io("open", root.display(self.relative()), error))?;
        let program =
            bpf::load_device_filter(&compile(rules)).map_err(|error| failed(error.log, error.source))?;
        let attach = || {
            let old = bpf::attached_device_filters(directory.as_fd())?;
            match old.as_slice() {
                [] => bpf::attach_device_filter(directory.as_fd(), program.as_fd(), None),
                // Replaced in one step, so that there is no moment with both filters or with none.
                [one] => bpf::attach_device_filter(directory.as_fd(), program.as_fd(), Some(one.as_fd())),
                // All of several must agree, so the old ones go after the new one has come.
                several => {
                    bpf::attach_device_filter(directory.as_fd(), program.as_fd(), None)?;
                    several
                        .iter()
                        .try_for_each(|one| bpf::detach_device_filter(directory.as_fd(), one.as_fd()))
                }
            }
        };
        attach().map_err(|source| failed(String::new(), source))
    }
}

/// The lines of `devices.allow` or `devices.deny` for a rule. `a` alone means everything, so a rule for both kinds
/// that is narrower becomes two.
fn v1_lines(rule: &Rule) -> Vec<(bool, String)> {
    if rule.is_for_everything() {
        return vec![(rule.allow, "a".to_owned())];
    }
    let number = |number: Option<u32>| number.map_or("*".to_owned(), |number| number.to_string());
    let letters: String = [('r', READ), ('w', WRITE), ('m', MKNOD)]
        .into_iter()
        .filter(|(_, bit)| rule.access & bit != 0)
        .map(|(letter, _)| letter)
        .collect();
    let kinds = [('c', CHARACTER), ('b', BLOCK)].into_iter();
    let kinds = kinds.filter(|(_, kind)| rule.kind.is_none_or(|wanted| wanted == *kind));
    kinds
        .map(|(kind, _)| {
            (
                rule.allow,
                format!("{kind} {}:{} {letters}", number(rule.major), number(rule.minor)),
            )
        })
        .collect()
}

// Registers: the kernel passes the context in R1 and takes the answer from R0.
const ANSWER: u8 = 0;
const CONTEXT: u8 = 1;
const KIND: u8 = 2;
const REMAINING: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;
const SCRATCH: u8 = 6;

/// Compiles rules to a device filter. Rules before the last one for everything can never decide and are left out.
fn compile(rules: &[Rule]) -> Vec<Instruction> {
    let first = rules.iter().rposition(Rule::is_for_everything).unwrap_or(0);
    let mut program = vec![
        load_word(KIND, CONTEXT, 0),
        load_word(REMAINING, CONTEXT, 0),
        load_word(MAJOR, CONTEXT, 4),
        load_word(MINOR, CONTEXT, 8),
        // access_type is (access << 16) | kind.
        and(KIND, 0xffff),
        shift_right(REMAINING, 16),
    ];
    for rule in rules[first..].iter().rev() {
        let checks = [(KIND, rule.kind), (MAJOR, rule.major), (MINOR, rule.minor)];
        let checks: Vec<_> = checks
            .into_iter()
            .filter_map(|(register, value)| Some((register, value?)))
            .collect();
        let decision = compile_decision(rule);
        let count = checks.len();
        for (index, (register, value)) in checks.into_iter().enumerate() {
            let skipped = count - 1 - index + decision.len();
            program.push(jump_if_not_equal(register, value, skipped as i16));
        }
        program.extend(decision);
    }
    program.extend(answer(0));
    program
}

fn compile_decision(rule: &Rule) -> Vec<Instruction> {
    let mut decision = Vec::with_capacity(5);
    if rule.allow {
        decision.push(and(REMAINING, (!rule.access & EVERY_ACCESS) as i32));
        decision.push(jump_if_not_equal(REMAINING, 0, 2));
        decision.extend(answer(1));
    } else {
        decision.push(copy(SCRATCH, REMAINING));
        decision.push(and(SCRATCH, rule.access as i32));
        decision.push(jump_if_equal(SCRATCH, 0, 2));
        decision.extend(answer(0));
    }
    decision
}

fn instruction(operation: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction {
        operation,
        registers: source << 4 | destination,
        offset,
        immediate,
    }
}

// Operation codes are those of the kernel's Documentation/bpf/standardization/instruction-set.rst, in 32-bit form.
fn load_word(destination: u8, source: u8, offset: i16) -> Instruction {
    instruction(0x61, destination, source, offset, 0)
}
fn and(destination: u8, value: i32) -> Instruction {
    instruction(0x54, destination, 0, 0, value)
}
fn shift_right(destination: u8, bits: i32) -> Instruction {
    instruction(0x74, destination, 0, 0, bits)
}
fn copy(destination: u8, source: u8) -> Instruction {
    instruction(0xbc, destination, source, 0, 0)
}
/// The 64-bit form, as kernels before 5.1 have no other; words are loaded zero-extended and a major or minor has
/// fewer than 31 bits, so it compares the same.
fn jump_if_not_equal(register: u8, value: u32, skipped: i16) -> Instruction {
    instruction(0x55, register, 0, skipped, value as i32)
}
fn jump_if_equal(register: u8, value: u32, skipped: i16) -> Instruction {
    instruction(0x15, register, 0, skipped, value as i32)
}
fn answer(value: i32) -> [Instruction; 2] {
    [
        instruction(0xb7, ANSWER, 0, 0, value),
        instruction(0x95, 0, 0, 0, 0),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel would do with a compiled filter.
    fn run(program: &[Instruction], kind: u32, access: u32, major: u32, minor: u32) -> bool {
        let context = [access << 16 | kind, major, minor];
        let mut registers = [0u64; 11];
        let mut at = 0usize;
        loop {
            let Instruction {
                operation,
                registers: pair,
                offset,
                immediate,
            } = program[at];
            let (destination, source) = (usize::from(pair & 15), usize::from(pair >> 4));
            let value = immediate as u32;
            at += 1;
            let mut jump = |taken: bool| {
                if taken {
                    at += offset as usize;
                }
            };
            match operation {
                0x61 => registers[destination] = u64::from(context[offset as usize / 4]),
                0x54 => registers[destination] &= u64::from(value),
                0x74 => registers[destination] = u64::from(registers[destination] as u32 >> value),
                0xbc => registers[destination] = registers[source],
                0x55 => jump(registers[destination] != u64::from(value)),
                0x15 => jump(registers[destination] == u64::from(value)),
                0xb7 => registers[destination] = u64::from(value),
                0x95 => return registers[0] == 1,
                other => panic!("operation {other:#x}"),
            }
        }
    }

    fn compiled(rules: &[LinuxDeviceCgroup]) -> Vec<Instruction> {
        compile(
            &rules
                .iter()
                .map(|rule| Rule::parse(rule).unwrap())
                .collect::<Vec<_>>(),
        )
    }

    #[test]
    fn default_rules_allow_what_docker_allows() {
        let program = compiled(&default_device_rules());
        assert!(run(&program, CHARACTER, READ | WRITE, 1, 3), "null");
        assert!(run(&program, CHARACTER, READ | WRITE | MKNOD, 136, 7), "pts");
        assert!(run(&program, CHARACTER, MKNOD, 1, 1), "any node may be made");
        assert!(run(&program, BLOCK, MKNOD, 8, 0));
        assert!(!run(&program, CHARACTER, READ, 1, 1), "mem");
        assert!(!run(&program, BLOCK, READ, 8, 0), "disk");
        assert!(
            !run(&program, BLOCK, READ | WRITE, 1, 3),
            "a block device with null's number"
        );
        assert!(!run(&program, BLOCK, MKNOD | READ, 8, 0));
    }

    #[test]
    fn last_rule_decides_for_each_permission() {
        let narrowed = [
            device_rule(true, LinuxDeviceType::A, None, None, "rwm"),
            device_rule(false, LinuxDeviceType::C, Some(1), Some(3), "w"),
        ];
        let program = compiled(&narrowed);
        assert!(run(&program, CHARACTER, READ, 1, 3));
        assert!(!run(&program, CHARACTER, READ | WRITE, 1, 3));
        assert!(run(&program, BLOCK, EVERY_ACCESS, 8, 1));

        let split = [
            device_rule(false, LinuxDeviceType::A, None, None, "rwm"),
            device_rule(true, LinuxDeviceType::C, Some(10), None, "r"),
            device_rule(true, LinuxDeviceType::C, Some(10), Some(229), "w"),
        ];
        let program = compiled(&split);
        assert!(
            run(&program, CHARACTER, READ | WRITE, 10, 229),
            "two rules together"
        );
        assert!(!run(&program, CHARACTER, READ | WRITE, 10, 200));
    }

    #[test]
    fn rules_that_cannot_decide_are_left_out() {
        let privileged: Vec<_> = default_device_rules()
            .into_iter()
            .chain([device_rule(true, LinuxDeviceType::A, None, None, "rwm")])
            .collect();
        let program = compiled(&privileged);
        assert!(program.len() < 14, "{} instructions", program.len());
        assert!(run(&program, BLOCK, EVERY_ACCESS, 8, 0));
    }

    #[test]
    fn v1_lines_are_as_the_kernel_reads_them() {
        let lines: Vec<_> = default_device_rules()
            .iter()
            .flat_map(|rule| v1_lines(&Rule::parse(rule).unwrap()))
            .collect();
        assert_eq!(lines[0], (false, "a".to_owned()));
        assert_eq!(lines[1], (true, "c *:* m".to_owned()));
        assert_eq!(lines[3], (true, "c 1:3 rwm".to_owned()));
        let both = device_rule(true, LinuxDeviceType::A, Some(7), None, "r");
        let both = v1_lines(&Rule::parse(&both).unwrap());
        assert_eq!(both, [(true, "c 7:* r".to_owned()), (true, "b 7:* r".to_owned())]);
    }

    #[test]
    fn nonsense_is_refused() {
        let rule = device_rule(true, LinuxDeviceType::C, Some(1), None, "rx");
        assert!(Rule::parse(&rule).is_err());
        let rule = device_rule(true, LinuxDeviceType::C, Some(-7), None, "r");
        assert!(Rule::parse(&rule).is_err());
        let rule = device_rule(true, LinuxDeviceType::P, None, None, "r");
        assert!(Rule::parse(&rule).is_err());
    }
}
