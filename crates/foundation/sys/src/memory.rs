//! Giving memory back to the kernel.

/// How far below the present depth the stack is released. Less than the kernel's guard gap (1 MiB by default), so that
/// even a stack much shorter than this has nothing else within reach.
const STACK_BYTES: usize = 512 * 1024;

/// Left untouched below the present depth, for this call's own frames and the red zone.
const STACK_MARGIN: usize = 32 * 1024;

/// The largest page size of any Linux architecture; ranges aligned to it are aligned to every smaller one.
const PAGE_BYTES_MAX: usize = 64 * 1024;

/// Returns what this process no longer uses to the kernel: free heap, and pages of the main thread's stack that an
/// earlier, deeper call has left behind. For a small process about to be idle for long. Call it on the main thread.
pub fn release_unused() {
    // SAFETY: takes no pointers; it only returns memory that the allocator itself holds as free.
    unsafe { libc::malloc_trim(0) };
    let marker = 0_u8;
    let end = (&raw const marker as usize - STACK_MARGIN) & !(PAGE_BYTES_MAX - 1);
    let start = end - STACK_BYTES;
    // SAFETY: the range lies wholly below the stack pointer, further than any frame of this call reaches, so nothing
    // in it is live; where no stack has been mapped yet the kernel reports that and touches nothing, and no other
    // mapping can be this close below a main thread's stack.
    unsafe { libc::madvise(start as *mut libc::c_void, STACK_BYTES, libc::MADV_DONTNEED) };
}
