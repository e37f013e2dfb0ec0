// SPDX-License-Identifier: GPL-2.0-only
/*
 * chdebug: boot marks of a stock kernel for chdebugd.
 *
 * Writes 0x42 to I/O port 0x80 when it is loaded and 0x5f when the kernel panics. Each byte that
 * root writes to /dev/chdebug goes to the port too, also where lockdown refuses ioperm and /dev/port.
 */

#include <linux/fs.h>
#include <linux/io.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/panic_notifier.h>
#include <linux/uaccess.h>

#define DEBUG_PORT 0x80

static unsigned char on_load = 0x42;
module_param(on_load, byte, 0444);
MODULE_PARM_DESC(on_load, "code to write when the module is loaded");

static unsigned char on_panic = 0x5f;
module_param(on_panic, byte, 0444);
MODULE_PARM_DESC(on_panic, "code to write when the kernel panics");

static ssize_t chdebug_write(struct file *file, const char __user *codes, size_t count,
			     loff_t *offset)
{
	unsigned char code;

	if (!count)
		return 0;
	if (get_user(code, codes))
		return -EFAULT;
	outb(code, DEBUG_PORT);
	return 1; /* the caller comes again with the rest: a mark is never a burst in the kernel */
}

static const struct file_operations chdebug_fops = {
	.owner = THIS_MODULE,
	.write = chdebug_write,
	.llseek = noop_llseek,
};

static struct miscdevice chdebug_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "chdebug",
	.fops = &chdebug_fops,
	.mode = 0200,
};

static int chdebug_panicked(struct notifier_block *block, unsigned long action, void *data)
{
	outb(on_panic, DEBUG_PORT);
	return NOTIFY_DONE;
}

static struct notifier_block chdebug_panic_block = {
	.notifier_call = chdebug_panicked,
};

static int __init chdebug_init(void)
{
	int error = misc_register(&chdebug_device);

	if (error)
		return error;
	outb(on_load, DEBUG_PORT);
	atomic_notifier_chain_register(&panic_notifier_list, &chdebug_panic_block);
	return 0;
}
module_init(chdebug_init);

static void __exit chdebug_exit(void)
{
	atomic_notifier_chain_unregister(&panic_notifier_list, &chdebug_panic_block);
	misc_deregister(&chdebug_device);
}
module_exit(chdebug_exit);

MODULE_AUTHOR("chdebugd maintainers");
MODULE_DESCRIPTION("Boot marks on I/O port 0x80 for chdebugd");
MODULE_LICENSE("GPL");
