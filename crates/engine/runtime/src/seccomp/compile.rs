//! From a profile to a classic BPF program: by architecture, then a binary search over ranges of system call numbers,
//! then, for the few calls that have them, conditions on arguments.
//!
//! Where rules for one call compete, one without conditions wins; otherwise the first that matches.

use super::syscalls::SYSCALLS;
use naru_sys::process::FilterInstruction;
use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompArg, LinuxSeccompOperator as Operator,
    LinuxSyscall,
};
use std::collections::BTreeMap;

// `linux/audit.h`, `linux/seccomp.h` (struct seccomp_data), `linux/bpf_common.h`.
pub(super) const ARCH_X86_64: u32 = 0xc000_003e;
pub(super) const ARCH_X86: u32 = 0x4000_0003;
pub(super) const X32_BIT: u32 = 0x4000_0000;
const OFFSET_NUMBER: u32 = 0;
const OFFSET_ARCH: u32 = 4;
const OFFSET_ARGUMENTS: u32 = 16;
pub(super) const LOAD: u16 = 0x20;
pub(super) const AND: u16 = 0x54;
pub(super) const JUMP: u16 = 0x05;
pub(super) const JUMP_EQUAL: u16 = 0x15;
pub(super) const JUMP_GREATER: u16 = 0x25;
pub(super) const JUMP_GREATER_EQUAL: u16 = 0x35;
pub(super) const RETURN: u16 = 0x06;
const RETURN_KILL_THREAD: u32 = 0;
/// The most instructions that the kernel accepts (`BPF_MAXINSNS`).
const INSTRUCTIONS_MAX: usize = 4096;

type Program = Vec<FilterInstruction>;

/// A rule as it applies to one system call: all conditions must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule<'a> {
    conditions: Vec<&'a LinuxSeccompArg>,
    action: u32,
}

/// The way into the kernel that a tree is for.
#[derive(Clone, Copy)]
enum Entry {
    X86_64,
    X86,
    X32,
}

pub(super) fn compile(profile: &LinuxSeccomp) -> Result<Program, String> {
    let architectures = profile
        .architectures()
        .as_deref()
        .unwrap_or(&[Arch::ScmpArchNative]);
    let has = |wanted: Arch| architectures.contains(&wanted);
    let native = has(Arch::ScmpArchX86_64) || has(Arch::ScmpArchNative);
    let tree = |entry, wanted| {
        if wanted {
            search_tree(profile, entry)
        } else {
            vec![stop(RETURN_KILL_THREAD)]
        }
    };
    let native_tree = tree(Entry::X86_64, native);
    let x32_tree = tree(Entry::X32, has(Arch::ScmpArchX32));
    let x86_tree = tree(Entry::X86, has(Arch::ScmpArchX86));

    let mut sixty_four = vec![statement(LOAD, OFFSET_NUMBER)];
    sixty_four.extend(branch(JUMP_GREATER_EQUAL, X32_BIT, x32_tree, native_tree));
    let mut thirty_two = vec![statement(LOAD, OFFSET_NUMBER)];
    thirty_two.extend(x86_tree);
    let other = branch(JUMP_EQUAL, ARCH_X86, thirty_two, vec![stop(RETURN_KILL_THREAD)]);
    let mut program = vec![statement(LOAD, OFFSET_ARCH)];
    program.extend(branch(JUMP_EQUAL, ARCH_X86_64, sixty_four, other));
    if program.len() > INSTRUCTIONS_MAX {
        return Err(format!(
            "the seccomp profile is too large: {} instructions",
            program.len()
        ));
    }
    Ok(program)
}

/// `if accumulator <jump> operand { yes } else { no }`; conditional jumps reach 255 instructions only.
fn branch(jump: u16, operand: u32, yes: Program, no: Program) -> Program {
    let mut program = Vec::with_capacity(yes.len() + no.len() + 2);
    if let Ok(distance) = u8::try_from(no.len()) {
        program.push(conditional(jump, operand, distance, 0));
    } else {
        program.push(conditional(jump, operand, 0, 1));
        program.push(statement(JUMP, no.len() as u32));
    }
    program.extend(no);
    program.extend(yes);
    program
}

fn search_tree(profile: &LinuxSeccomp, entry: Entry) -> Program {
    let base = if matches!(entry, Entry::X32) { X32_BIT } else { 0 };
    let default = action_value(profile.default_action(), profile.default_errno_ret());
    let rules = rules_by_number(profile, entry, default);
    let mut ranges: Vec<(u32, Vec<Rule<'_>>)> = vec![(base, plain(default))];
    let mut next = 0;
    for (number, wanted) in rules {
        if number > next {
            push_range(&mut ranges, base + next, plain(default));
        }
        push_range(&mut ranges, base + number, wanted);
        next = number + 1;
    }
    push_range(&mut ranges, base + next, plain(beyond(profile, default)));
    tree_of(&ranges)
}

/// Starts a range unless it would only go on with the one before.
fn push_range<'a>(ranges: &mut Vec<(u32, Vec<Rule<'a>>)>, start: u32, rules: Vec<Rule<'a>>) {
    match ranges.last_mut() {
        Some(last) if last.0 == start => last.1 = rules,
        Some(last) if last.1 == rules => {}
        _ => ranges.push((start, rules)),
    }
}

/// What calls newer than any the profile knows get: "not implemented", so that programs fall back, rather than "not
/// permitted" (as runc does).
fn beyond(profile: &LinuxSeccomp, default: u32) -> u32 {
    let allows = matches!(
        profile.default_action(),
        Action::ScmpActAllow | Action::ScmpActLog | Action::ScmpActTrace | Action::ScmpActNotify
    );
    if allows {
        default
    } else {
        libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32
    }
}

fn plain<'a>(action: u32) -> Vec<Rule<'a>> {
    vec![Rule {
        conditions: Vec::new(),
        action,
    }]
}

fn tree_of(ranges: &[(u32, Vec<Rule<'_>>)]) -> Program {
    match ranges {
        [] => Vec::new(),
        [(_, rules)] => decision(rules),
        _ => {
            let (low, high) = ranges.split_at(ranges.len() / 2);
            branch(JUMP_GREATER_EQUAL, high[0].0, tree_of(high), tree_of(low))
        }
    }
}

/// The rules of each call that has any, ending with an unconditional one.
fn rules_by_number<'a>(
    profile: &'a LinuxSeccomp,
    entry: Entry,
    default: u32,
) -> BTreeMap<u32, Vec<Rule<'a>>> {
    let mut by_number: BTreeMap<u32, Vec<Rule<'a>>> = BTreeMap::new();
    for syscall in profile.syscalls().as_deref().unwrap_or_default() {
        let action = action_value(syscall.action(), syscall.errno_ret());
        for name in syscall.names() {
            // A name of another architecture or a later kernel is not an error.
            let Some(number) = number_of(name, entry) else {
                continue;
            };
            let rules = by_number.entry(number).or_default();
            rules.extend(rules_of(syscall, action));
        }
    }
    for rules in by_number.values_mut() {
        match rules.iter().position(|rule| rule.conditions.is_empty()) {
            Some(position) => *rules = vec![rules.swap_remove(position)],
            None => rules.extend(plain(default)),
        }
    }
    by_number
}

/// Several conditions on one argument are alternatives, as runc reads them; otherwise all must hold.
fn rules_of(syscall: &LinuxSyscall, action: u32) -> Vec<Rule<'_>> {
    let conditions: Vec<_> = syscall.args().iter().flatten().collect();
    let repeats = conditions
        .iter()
        .enumerate()
        .any(|(at, one)| conditions[..at].iter().any(|other| other.index() == one.index()));
    if repeats {
        return conditions
            .into_iter()
            .map(|one| Rule {
                conditions: vec![one],
                action,
            })
            .collect();
    }
    vec![Rule { conditions, action }]
}

fn number_of(name: &str, entry: Entry) -> Option<u32> {
    let at = SYSCALLS.binary_search_by(|(known, ..)| (*known).cmp(name)).ok()?;
    let (_, x86_64, x86, x32) = SYSCALLS[at];
    match entry {
        Entry::X86_64 => x86_64,
        Entry::X86 => x86,
        Entry::X32 => x32,
    }
}

fn action_value(action: Action, errno: Option<u32>) -> u32 {
    let data = errno.unwrap_or(libc::EPERM as u32) & libc::SECCOMP_RET_DATA;
    match action {
        Action::ScmpActKill | Action::ScmpActKillThread => libc::SECCOMP_RET_KILL_THREAD,
        Action::ScmpActKillProcess => libc::SECCOMP_RET_KILL_PROCESS,
        Action::ScmpActTrap => libc::SECCOMP_RET_TRAP,
        Action::ScmpActErrno => libc::SECCOMP_RET_ERRNO | data,
        Action::ScmpActTrace => libc::SECCOMP_RET_TRACE | data,
        Action::ScmpActLog => libc::SECCOMP_RET_LOG,
        Action::ScmpActAllow => libc::SECCOMP_RET_ALLOW,
        Action::ScmpActNotify => libc::SECCOMP_RET_USER_NOTIF,
    }
}

/// The code for one call: its rules tried in order. The last has no conditions.
fn decision(rules: &[Rule<'_>]) -> Program {
    let mut program = Program::new();
    for rule in rules {
        program.extend(rule_code(rule));
    }
    program
}

/// Where a conditional jump inside a rule goes.
#[derive(Clone, Copy)]
enum Goto {
    Next,
    /// The condition holds: to the following condition or the action.
    Pass,
    /// The rule does not apply: past its action.
    Fail,
}

fn rule_code(rule: &Rule<'_>) -> Program {
    let conditions: Vec<_> = rule
        .conditions
        .iter()
        .map(|condition| condition_code(condition))
        .collect();
    let length: usize = conditions.iter().map(Vec::len).sum();
    let mut program = Program::new();
    for condition in conditions {
        let end = program.len() + condition.len();
        for (code, operand, yes, no) in condition {
            let here = program.len() + 1;
            let distance = |goto| match goto {
                Goto::Next => 0,
                Goto::Pass => end - here,
                // One more than all conditions: the action's own instruction.
                Goto::Fail => length + 1 - here,
            } as u8;
            program.push(conditional(code, operand, distance(yes), distance(no)));
        }
    }
    program.push(stop(rule.action));
    program
}

/// Compares a 64-bit argument by halves, the upper one first.
fn condition_code(condition: &LinuxSeccompArg) -> Vec<(u16, u32, Goto, Goto)> {
    use Goto::{Fail, Next, Pass};
    let low_offset = OFFSET_ARGUMENTS + 8 * condition.index() as u32;
    let load = |offset| (LOAD, offset, Next, Next);
    let (low_load, high_load) = (load(low_offset), load(low_offset + 4));
    let (low, high) = halves(condition.value());
    let ordered = |jump, yes, no| {
        vec![
            high_load,
            (JUMP_GREATER, high, yes, Next),
            (JUMP_EQUAL, high, Next, no),
            low_load,
            (jump, low, yes, no),
        ]
    };
    match condition.op() {
        Operator::ScmpCmpEq => {
            vec![
                high_load,
                (JUMP_EQUAL, high, Next, Fail),
                low_load,
                (JUMP_EQUAL, low, Pass, Fail),
            ]
        }
        Operator::ScmpCmpNe => {
            vec![
                high_load,
                (JUMP_EQUAL, high, Next, Pass),
                low_load,
                (JUMP_EQUAL, low, Fail, Pass),
            ]
        }
        Operator::ScmpCmpGe => ordered(JUMP_GREATER_EQUAL, Pass, Fail),
        Operator::ScmpCmpGt => ordered(JUMP_GREATER, Pass, Fail),
        Operator::ScmpCmpLt => ordered(JUMP_GREATER_EQUAL, Fail, Pass),
        Operator::ScmpCmpLe => ordered(JUMP_GREATER, Fail, Pass),
        Operator::ScmpCmpMaskedEq => {
            let (wanted_low, wanted_high) = halves(condition.value_two().unwrap_or(0));
            vec![
                high_load,
                (AND, high, Next, Next),
                (JUMP_EQUAL, wanted_high, Next, Fail),
                low_load,
                (AND, low, Next, Next),
                (JUMP_EQUAL, wanted_low, Pass, Fail),
            ]
        }
    }
}

fn halves(value: u64) -> (u32, u32) {
    (value as u32, (value >> 32) as u32)
}

fn statement(code: u16, operand: u32) -> FilterInstruction {
    conditional(code, operand, 0, 0)
}

fn stop(action: u32) -> FilterInstruction {
    statement(RETURN, action)
}

fn conditional(code: u16, operand: u32, jump_true: u8, jump_false: u8) -> FilterInstruction {
    FilterInstruction {
        code,
        jump_true,
        jump_false,
        operand,
    }
}

#[cfg(test)]
#[path = "compile_tests.rs"]
mod tests;
