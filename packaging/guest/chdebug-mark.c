/* SPDX-License-Identifier: Apache-2.0
 *
 * chdebug-mark CODE...: writes each CODE (0 to 255, or 0x0 to 0xff) to I/O port 0x80: with ioperm,
 * else by /dev/port, else by /dev/chdebug, the device of the module in kernel/.
 *
 * Called as chdebug-init (rdinit=/chdebug-init) it marks 0x48 and becomes /init.
 *
 * It uses no C library, so that it runs in any initramfs and starts in microseconds.
 * Exit status: 0 all marks were made, 1 the kernel refused, 2 wrong usage (no mark was made).
 */

#define PORT 0x80
#define INIT_CODE 0x48 /* the initramfs begins */

enum { SYS_read = 0, SYS_write = 1, SYS_open = 2, SYS_close = 3, SYS_pwrite64 = 18,
       SYS_execve = 59, SYS_exit = 60, SYS_ioperm = 173 };
enum { O_RDONLY = 0, O_WRONLY = 1, EPERM = 1, STDERR = 2 };

static long call(long number, long a, long b, long c, long d)
{
	register long r10 __asm__("r10") = d;
	long result;

	__asm__ volatile("syscall" : "=a"(result)
			 : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10)
			 : "rcx", "r11", "memory");
	return result;
}

static unsigned long length(const char *text)
{
	unsigned long n = 0;

	while (text[n])
		n++;
	return n;
}

static void say(const char *text)
{
	call(SYS_write, STDERR, (long)text, (long)length(text), 0);
}

static int same(const char *a, const char *b)
{
	while (*a && *a == *b)
		a++, b++;
	return *a == *b;
}

static int ends_with(const char *text, const char *end)
{
	unsigned long n = length(text), m = length(end);

	return n >= m && same(text + n - m, end);
}

static int digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c |= 0x20;
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : 99;
}

/* The code that a word names, or -1. No octal: 010 means ten to some and eight to others. */
static int parse(const char *word)
{
	int base = 10, value = 0;

	if (!*word || length(word) > 4)
		return -1;
	if (word[0] == '0' && word[1]) {
		if ((word[1] | 0x20) != 'x' || !word[2])
			return -1;
		base = 16;
		word += 2;
	}
	for (; *word; word++) {
		if (digit(*word) >= base)
			return -1;
		value = value * base + digit(*word);
	}
	return value > 0xff ? -1 : value;
}

/* Whether the kernel is locked down: then neither ioperm nor /dev/port will do, even for root. */
static int locked_down(void)
{
	char state[128];
	long fd = call(SYS_open, (long)"/sys/kernel/security/lockdown", O_RDONLY, 0, 0);
	long n = fd < 0 ? 0 : call(SYS_read, fd, (long)state, sizeof(state), 0);

	if (fd >= 0)
		call(SYS_close, fd, 0, 0, 0);
	for (long i = 0; i + 1 < n; i++)
		if (state[i] == '[')
			return state[i + 1] != 'n'; /* "[none] integrity confidentiality" */
	return 0;
}

/* Write one byte at an offset of a device; 0 or a negative errno. */
static long write_device(const char *path, unsigned char code, long offset)
{
	long fd = call(SYS_open, (long)path, O_WRONLY, 0, 0);
	long result;

	if (fd < 0)
		return fd;
	result = call(SYS_pwrite64, fd, (long)&code, 1, offset);
	call(SYS_close, fd, 0, 0, 0);
	return result == 1 ? 0 : result;
}

/* Write one code by the first way that the kernel allows; 0, or why the first one failed. */
static long mark(unsigned char code)
{
	long error = call(SYS_ioperm, PORT, 1, 1, 0);

	if (!error) {
		__asm__ volatile("outb %0, %1" : : "a"(code), "Nd"((unsigned short)PORT));
		return 0;
	}
	if (!write_device("/dev/port", code, PORT) || !write_device("/dev/chdebug", code, 0))
		return 0;
	return error;
}

static int refused(long error)
{
	say("chdebug-mark: ");
	if (locked_down())
		say("the kernel is locked down (Secure Boot) and gives no program an I/O port; load"
		    " the module chdebug, signed with a key that this machine trusts\n");
	else if (error == -EPERM)
		say("writing to I/O port 0x80 needs root (CAP_SYS_RAWIO)\n");
	else
		say("this kernel has neither ioperm nor /dev/port; load the module chdebug\n");
	return 1;
}

static int usage(void)
{
	say("Usage: chdebug-mark CODE...\n"
	    "Write each CODE (0 to 255, or 0x0 to 0xff) to I/O port 0x80, where the host's\n"
	    "chdebugd notes it: 0x40-0x5f kernel and initramfs, 0x60-0x7f userspace, 0x80-0xff yours.\n");
	return 2;
}

static int become_init(char **argv, char **envp)
{
	mark(INIT_CODE); /* a boot goes on without its mark */
	argv[0] = "/init";
	call(SYS_execve, (long)argv[0], (long)argv, (long)envp, 0);
	say("chdebug-init: this initramfs has no /init\n");
	return 1;
}

static int run(long argc, char **argv, char **envp)
{
	if (argc > 0 && ends_with(argv[0], "chdebug-init"))
		return become_init(argv, envp);
	if (argc < 2)
		return usage();
	for (long i = 1; i < argc; i++)
		if (parse(argv[i]) < 0)
			return usage();
	for (long i = 1; i < argc; i++) {
		long error = mark((unsigned char)parse(argv[i]));

		if (error)
			return refused(error);
	}
	return 0;
}

__attribute__((noreturn, used)) void start(long *stack)
{
	long argc = stack[0];
	char **argv = (char **)(stack + 1);

	call(SYS_exit, run(argc, argv, argv + argc + 1), 0, 0, 0);
	__builtin_unreachable();
}

__asm__(".globl _start\n_start: xor %ebp, %ebp\n mov %rsp, %rdi\n and $-16, %rsp\n call start\n");
