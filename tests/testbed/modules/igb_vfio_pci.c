// SPDX-License-Identifier: GPL-2.0
/*
 * igb_vfio_pci - VFIO variant driver that migrates the emulated 82576 VF (8086:10ca)
 *
 * For tests only, in place of mlx5_vfio_pci, which does this for a ConnectX-7. It implements version 2 of VFIO's
 * migration protocol (STOP_COPY only) and really migrates the VF's state: queue and interrupt registers are read when
 * the device stops and written when it runs again on the other host. As with mlx5, migration is offered
 * only if the port function was migratable when the driver bound.
 *
 * Register offsets are those of the 82576 data sheet, chapter "Virtual Function register descriptions".
 */
#include <linux/anon_inodes.h>
#include <linux/delay.h>
#include <linux/file.h>
#include <linux/iova_bitmap.h>
#include <linux/module.h>
#include <linux/pci.h>
#include <linux/vfio.h>
#include <linux/vfio_pci_core.h>

#include "cx7sim.h"

#define VF_CTRL			0x0000
#define   VF_CTRL_RST		BIT(26)
#define VF_MAILBOX_MEMORY	0x0800
#define VF_MAILBOX		0x0c40
#define   VF_MAILBOX_REQ	BIT(0)	/* a message for the PF is in the memory */
#define   VF_MAILBOX_ACK	BIT(1)	/* the PF's message was read */
#define   VF_MAILBOX_VFU	BIT(2)	/* the VF owns the memory */
#define   VF_MAILBOX_PFSTS	BIT(4)	/* the PF's message is in the memory */
#define   VF_MESSAGE_RESET	1
#define VF_EITR(n)		(0x1680 + 4 * (n))
#define VF_EICS			0x1520
#define VF_EIMS			0x1524
#define VF_EIMC			0x1528
#define VF_EIAC			0x152c
#define VF_EIAM			0x1530
#define VF_IVAR			0x1700
#define VF_IVAR_MISC		0x1740
#define   VF_IVAR_VECTOR	0x3
#define   VF_IVAR_VALID		BIT(7)
#define VF_PSRTYPE		0x0f0c
#define VF_RX(queue, reg)	(0x2800 + 0x100 * (queue) + (reg))
#define VF_TX(queue, reg)	(0x3800 + 0x100 * (queue) + (reg))
#define   RING_BASE_LOW		0x00
#define   RING_BASE_HIGH	0x04
#define   RING_LENGTH		0x08
#define   RX_SPLIT		0x0c
#define   RING_HEAD		0x10
#define   RING_TAIL		0x18
#define   RING_CONTROL		0x28
#define   RING_CONTROL_ENABLE	BIT(25)
#define   TX_WRITEBACK_LOW	0x38
#define   TX_WRITEBACK_HIGH	0x3c

#define RING(base, queue) \
	base(queue, RING_BASE_LOW), base(queue, RING_BASE_HIGH), base(queue, RING_LENGTH), base(queue, RING_HEAD)

/* Written first, in this order: everything that a ring needs before it can be enabled. */
static const u16 plain_registers[] = {
	VF_PSRTYPE, VF_EITR(0), VF_EITR(1), VF_EITR(2), VF_IVAR, VF_IVAR_MISC, VF_EIAC, VF_EIAM,
	RING(VF_RX, 0), VF_RX(0, RX_SPLIT),
	RING(VF_RX, 1), VF_RX(1, RX_SPLIT),
	RING(VF_TX, 0), VF_TX(0, TX_WRITEBACK_LOW), VF_TX(0, TX_WRITEBACK_HIGH),
	RING(VF_TX, 1), VF_TX(1, TX_WRITEBACK_LOW), VF_TX(1, TX_WRITEBACK_HIGH),
};

/* Then the rings are enabled. Their tails are written last, which starts the device. */
static const u16 control_registers[] = {
	VF_RX(0, RING_CONTROL), VF_TX(0, RING_CONTROL), VF_RX(1, RING_CONTROL), VF_TX(1, RING_CONTROL),
};

static const u16 tail_registers[] = {
	VF_RX(0, RING_TAIL), VF_TX(0, RING_TAIL), VF_RX(1, RING_TAIL), VF_TX(1, RING_TAIL),
};

#define STATE_MAGIC 0x56464947	/* "GIFV" */

/* The state as it is sent to the other host. */
struct vf_state {
	__le32 magic;
	__le32 size;
	u32 interrupt_mask;
	u32 plain[ARRAY_SIZE(plain_registers)];
	u32 control[ARRAY_SIZE(control_registers)];
	u32 tail[ARRAY_SIZE(tail_registers)];
} __packed;

/* One end of the stream: the file from which QEMU reads the state, or to which it writes it. */
struct migration_file {
	struct file *filp;
	struct mutex lock;	/* protects the rest */
	struct vf_state state;
	size_t length;
	bool disabled;
};

/* More ranges than QEMU requests: the guest's memory has three or four. */
#define MOST_RANGES 32

struct igb_vf {
	struct vfio_pci_core_device core;
	struct mutex state_mutex;	/* protects what follows */
	enum vfio_device_mig_state mig_state;
	void __iomem *regs;
	struct vf_state state;
	bool has_state;		/* state has what the device needs to continue */
	bool from_elsewhere;	/* the state is from another host */
	bool logging;
	unsigned long told[MOST_RANGES];	/* the starts of the ranges reported as dirty since it stopped */
	size_t told_count;
	struct migration_file *saving;
	struct migration_file *resuming;
};

static struct igb_vf *to_igb_vf(struct vfio_device *vdev)
{
	return container_of(vdev, struct igb_vf, core.vdev);
}

/* ---- the registers ---- */

static void save_registers(struct igb_vf *vf, const u16 *registers, u32 *values, size_t count)
{
	size_t i;

	for (i = 0; i < count; i++)
		values[i] = readl(vf->regs + registers[i]);
}

static void restore_registers(struct igb_vf *vf, const u16 *registers, const u32 *values, size_t count)
{
	size_t i;

	for (i = 0; i < count; i++)
		writel(values[i], vf->regs + registers[i]);
}

/*
 * The vectors of the rings. A vector masks itself when it fires, and the guest's driver unmasks it after its work. If one
 * fires while the guest stops, its message may be lost, and nothing would unmask it again. So the state has all of them,
 * masked or not. The vector of the mailbox is left out: the driver would look for a message there, which did not migrate,
 * and report that its link is down.
 */
static u32 ring_vectors(struct igb_vf *vf)
{
	u32 mailbox = readl(vf->regs + VF_IVAR_MISC);
	u32 vectors = readl(vf->regs + VF_EIAC);

	return mailbox & VF_IVAR_VALID ? vectors & ~BIT(mailbox & VF_IVAR_VECTOR) : vectors;
}

static void stop_and_save(struct igb_vf *vf)
{
	struct vf_state *state = &vf->state;
	size_t i;

	state->magic = cpu_to_le32(STATE_MAGIC);
	state->size = cpu_to_le32(sizeof(*state));
	state->interrupt_mask = readl(vf->regs + VF_EIMS) | ring_vectors(vf);
	writel(~0, vf->regs + VF_EIMC);
	save_registers(vf, control_registers, state->control, ARRAY_SIZE(control_registers));
	for (i = 0; i < ARRAY_SIZE(control_registers); i++)
		writel(state->control[i] & ~RING_CONTROL_ENABLE, vf->regs + control_registers[i]);
	/* the rings are stopped now: heads and tails no longer change */
	save_registers(vf, tail_registers, state->tail, ARRAY_SIZE(tail_registers));
	save_registers(vf, plain_registers, state->plain, ARRAY_SIZE(plain_registers));
	vf->has_state = true;
	pci_dbg(vf->core.pdev, "state saved\n");
}

/* Poll for bits of the mailbox that clear when read, and keep the others seen. */
static bool mailbox_wait(struct igb_vf *vf, u32 bits)
{
	u32 seen = 0;
	int i;

	for (i = 0; i < 2000; i++) {
		seen |= readl(vf->regs + VF_MAILBOX);
		if (seen & bits)
			return true;
		usleep_range(500, 1000);
	}
	return false;
}

static void mailbox_take(struct igb_vf *vf)
{
	int i;

	for (i = 0; i < 100; i++) {
		writel(VF_MAILBOX_VFU, vf->regs + VF_MAILBOX);
		if (readl(vf->regs + VF_MAILBOX) & VF_MAILBOX_VFU)
			return;
		usleep_range(500, 1000);
	}
}

/*
 * The reset handshake with the PF's driver, as a VF's own driver does it when it starts. Without it the PF keeps transmit
 * and receive of the VF disabled: that part of the state is in the PF, which did not migrate.
 */
static void reset_through_pf(struct igb_vf *vf)
{
	writel(readl(vf->regs + VF_CTRL) | VF_CTRL_RST, vf->regs + VF_CTRL);
	usleep_range(500, 1000);
	mailbox_take(vf);
	writel(VF_MESSAGE_RESET, vf->regs + VF_MAILBOX_MEMORY);
	writel(VF_MAILBOX_REQ, vf->regs + VF_MAILBOX);
	if (!mailbox_wait(vf, VF_MAILBOX_PFSTS))
		pci_warn(vf->core.pdev, "the PF did not answer the reset of its VF\n");
	mailbox_take(vf);
	writel(VF_MAILBOX_ACK, vf->regs + VF_MAILBOX);
}

static void restore_and_run(struct igb_vf *vf)
{
	const struct vf_state *state = &vf->state;

	if (vf->from_elsewhere)
		reset_through_pf(vf);
	restore_registers(vf, plain_registers, state->plain, ARRAY_SIZE(plain_registers));
	restore_registers(vf, control_registers, state->control, ARRAY_SIZE(control_registers));
	restore_registers(vf, tail_registers, state->tail, ARRAY_SIZE(tail_registers));
	writel(state->interrupt_mask, vf->regs + VF_EIMS);
	/* an interrupt may have been lost: raise that of each ring once, so that the guest's driver checks its rings */
	writel(ring_vectors(vf), vf->regs + VF_EICS);
	pci_dbg(vf->core.pdev, "state restored%s\n", vf->from_elsewhere ? " from another host" : "");
	vf->from_elsewhere = false;
}

/* ---- the stream ---- */

static ssize_t saving_read(struct file *filp, char __user *buf, size_t len, loff_t *pos)
{
	struct migration_file *file = filp->private_data;
	ssize_t done = 0;

	if (pos)
		return -ESPIPE;
	mutex_lock(&file->lock);
	if (file->disabled) {
		done = -ENODEV;
	} else if (filp->f_pos < file->length) {
		done = min_t(size_t, len, file->length - filp->f_pos);
		if (copy_to_user(buf, (u8 *)&file->state + filp->f_pos, done))
			done = -EFAULT;
		else
			filp->f_pos += done;
	}
	mutex_unlock(&file->lock);
	return done;
}

static ssize_t resuming_write(struct file *filp, const char __user *buf, size_t len, loff_t *pos)
{
	struct migration_file *file = filp->private_data;
	ssize_t done = len;

	if (pos)
		return -ESPIPE;
	mutex_lock(&file->lock);
	if (file->disabled)
		done = -ENODEV;
	else if (len > sizeof(file->state) - file->length)
		done = -ENOSPC;
	else if (copy_from_user((u8 *)&file->state + file->length, buf, len))
		done = -EFAULT;
	else
		file->length += len;
	mutex_unlock(&file->lock);
	return done;
}

static int migration_file_release(struct inode *inode, struct file *filp)
{
	kfree(filp->private_data);
	return 0;
}

static const struct file_operations saving_fops = {
	.owner		= THIS_MODULE,
	.read		= saving_read,
	.release	= migration_file_release,
};

static const struct file_operations resuming_fops = {
	.owner		= THIS_MODULE,
	.write		= resuming_write,
	.release	= migration_file_release,
};

static struct migration_file *migration_file_open(const struct file_operations *fops, int flags)
{
	struct migration_file *file = kzalloc(sizeof(*file), GFP_KERNEL_ACCOUNT);

	if (!file)
		return ERR_PTR(-ENOMEM);
	mutex_init(&file->lock);
	file->filp = anon_inode_getfile("igb_vfio_migration", fops, file, flags);
	if (IS_ERR(file->filp)) {
		int err = PTR_ERR(file->filp);

		kfree(file);
		return ERR_PTR(err);
	}
	stream_open(file->filp->f_inode, file->filp);
	return file;
}

/* QEMU may keep the file open for longer than the state exists: reads and writes then fail. */
static void migration_file_close(struct migration_file **slot)
{
	struct migration_file *file = *slot;

	if (!file)
		return;
	mutex_lock(&file->lock);
	file->disabled = true;
	mutex_unlock(&file->lock);
	fput(file->filp);
	*slot = NULL;
}

/* ---- the state machine; state_mutex is held ---- */

static struct file *begin_saving(struct igb_vf *vf)
{
	struct migration_file *file = migration_file_open(&saving_fops, O_RDONLY);

	if (IS_ERR(file))
		return ERR_CAST(file);
	file->state = vf->state;
	file->length = sizeof(vf->state);
	vf->saving = file;
	get_file(file->filp);
	return file->filp;
}

static struct file *begin_resuming(struct igb_vf *vf)
{
	struct migration_file *file = migration_file_open(&resuming_fops, O_WRONLY);

	if (IS_ERR(file))
		return ERR_CAST(file);
	vf->resuming = file;
	get_file(file->filp);
	return file->filp;
}

static int end_resuming(struct igb_vf *vf)
{
	const struct vf_state *state = &vf->resuming->state;
	bool whole = vf->resuming->length == sizeof(*state) &&
		     state->magic == cpu_to_le32(STATE_MAGIC) &&
		     state->size == cpu_to_le32(sizeof(*state));

	if (whole) {
		vf->state = *state;
		vf->has_state = true;
		vf->from_elsewhere = true;
	}
	migration_file_close(&vf->resuming);
	return whole ? 0 : -EINVAL;
}

#define ARC(from, to) ((VFIO_DEVICE_STATE_##from) << 8 | (VFIO_DEVICE_STATE_##to))

/* One arc of the state machine in include/uapi/linux/vfio.h; returns the file that the arc opens, if it does. */
static struct file *take_arc(struct igb_vf *vf, enum vfio_device_mig_state to)
{
	switch (vf->mig_state << 8 | to) {
	case ARC(RUNNING, RUNNING_P2P):
	case ARC(RUNNING_P2P, RUNNING):
		/* The VF writes only to its rings in the guest's memory, never to another device. */
		return NULL;
	case ARC(RUNNING_P2P, STOP):
		stop_and_save(vf);
		return NULL;
	case ARC(STOP, RUNNING_P2P):
		vf->told_count = 0;
		if (vf->has_state)
			restore_and_run(vf);
		return NULL;
	case ARC(STOP, STOP_COPY):
		return begin_saving(vf);
	case ARC(STOP_COPY, STOP):
		migration_file_close(&vf->saving);
		return NULL;
	case ARC(STOP, RESUMING):
		return begin_resuming(vf);
	case ARC(RESUMING, STOP):
		return ERR_PTR(end_resuming(vf));
	default:
		return ERR_PTR(-EINVAL);
	}
}

static struct file *igb_vf_set_state(struct vfio_device *vdev, enum vfio_device_mig_state new_state)
{
	struct igb_vf *vf = to_igb_vf(vdev);
	enum vfio_device_mig_state next;
	struct file *file = NULL;
	int err;

	mutex_lock(&vf->state_mutex);
	while (new_state != vf->mig_state) {
		err = vfio_mig_get_next_state(vdev, vf->mig_state, new_state, &next);
		if (err) {
			file = ERR_PTR(err);
			break;
		}
		file = take_arc(vf, next);
		if (IS_ERR(file))
			break;
		vf->mig_state = next;
		if (WARN_ON(file && new_state != vf->mig_state)) {
			fput(file);
			file = ERR_PTR(-EINVAL);
			break;
		}
	}
	mutex_unlock(&vf->state_mutex);
	return file;
}

static int igb_vf_get_state(struct vfio_device *vdev, enum vfio_device_mig_state *state)
{
	struct igb_vf *vf = to_igb_vf(vdev);

	mutex_lock(&vf->state_mutex);
	*state = vf->mig_state;
	mutex_unlock(&vf->state_mutex);
	return 0;
}

static int igb_vf_get_data_size(struct vfio_device *vdev, unsigned long *length)
{
	*length = sizeof(struct vf_state);
	return 0;
}

static const struct vfio_migration_ops migration_ops = {
	.migration_set_state		= igb_vf_set_state,
	.migration_get_state		= igb_vf_get_state,
	.migration_get_data_size	= igb_vf_get_data_size,
};

/*
 * DMA logging. The emulated VF does not know which pages it wrote. So the log reports none while the VF runs, and all of
 * them once when it has stopped: everything is sent again while the guest is paused.
 */

static bool was_told(struct igb_vf *vf, unsigned long iova)
{
	size_t i;

	for (i = 0; i < vf->told_count; i++)
		if (vf->told[i] == iova)
			return true;
	if (vf->told_count < ARRAY_SIZE(vf->told))
		vf->told[vf->told_count++] = iova;
	return false;
}

static int log_start(struct vfio_device *vdev, struct rb_root_cached *ranges, u32 nnodes, u64 *page_size)
{
	struct igb_vf *vf = to_igb_vf(vdev);

	if (vf->logging)
		return -EINVAL;
	vf->logging = true;
	vf->told_count = 0;
	*page_size = PAGE_SIZE;
	return 0;
}

static int log_stop(struct vfio_device *vdev)
{
	to_igb_vf(vdev)->logging = false;
	return 0;
}

static int log_read_and_clear(struct vfio_device *vdev, unsigned long iova, unsigned long length,
			      struct iova_bitmap *dirty)
{
	struct igb_vf *vf = to_igb_vf(vdev);

	if (!vf->logging)
		return -EINVAL;
	if (vf->mig_state != VFIO_DEVICE_STATE_RUNNING && !was_told(vf, iova))
		iova_bitmap_set(dirty, iova, length);
	return 0;
}

static const struct vfio_log_ops log_ops = {
	.log_start		= log_start,
	.log_stop		= log_stop,
	.log_read_and_clear	= log_read_and_clear,
};

/* ---- the device ---- */

static int igb_vf_init_dev(struct vfio_device *vdev)
{
	struct igb_vf *vf = to_igb_vf(vdev);

	mutex_init(&vf->state_mutex);
	if (cx7sim_vf_migratable(to_pci_dev(vdev->dev))) {
		/* Without P2P, QEMU migrates no guest with two such VFs. */
		vdev->migration_flags = VFIO_MIGRATION_STOP_COPY | VFIO_MIGRATION_P2P;
		vdev->mig_ops = &migration_ops;
		vdev->log_ops = &log_ops;
	}
	return vfio_pci_core_init_dev(vdev);
}

static int igb_vf_open_device(struct vfio_device *vdev)
{
	struct igb_vf *vf = to_igb_vf(vdev);
	int err;

	err = vfio_pci_core_enable(&vf->core);
	if (err)
		return err;
	vf->regs = pci_iomap(vf->core.pdev, 0, 0);
	if (!vf->regs) {
		vfio_pci_core_disable(&vf->core);
		return -ENOMEM;
	}
	vf->mig_state = VFIO_DEVICE_STATE_RUNNING;
	vf->has_state = false;
	vf->from_elsewhere = false;
	vf->logging = false;
	vfio_pci_core_finish_enable(&vf->core);
	return 0;
}

static void igb_vf_close_device(struct vfio_device *vdev)
{
	struct igb_vf *vf = to_igb_vf(vdev);

	migration_file_close(&vf->saving);
	migration_file_close(&vf->resuming);
	pci_iounmap(vf->core.pdev, vf->regs);
	vfio_pci_core_close_device(vdev);
}

static const struct vfio_device_ops igb_vf_ops = {
	.name			= "igb-vfio-pci",
	.init			= igb_vf_init_dev,
	.release		= vfio_pci_core_release_dev,
	.open_device		= igb_vf_open_device,
	.close_device		= igb_vf_close_device,
	.ioctl			= vfio_pci_core_ioctl,
	.device_feature		= vfio_pci_core_ioctl_feature,
	.read			= vfio_pci_core_read,
	.write			= vfio_pci_core_write,
	.mmap			= vfio_pci_core_mmap,
	.request		= vfio_pci_core_request,
	.match			= vfio_pci_core_match,
	.bind_iommufd		= vfio_iommufd_physical_bind,
	.unbind_iommufd		= vfio_iommufd_physical_unbind,
	.attach_ioas		= vfio_iommufd_physical_attach_ioas,
	.detach_ioas		= vfio_iommufd_physical_detach_ioas,
};

static int igb_vf_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct igb_vf *vf;
	int err;

	vf = vfio_alloc_device(igb_vf, core.vdev, &pdev->dev, &igb_vf_ops);
	if (IS_ERR(vf))
		return PTR_ERR(vf);
	dev_set_drvdata(&pdev->dev, &vf->core);
	err = vfio_pci_core_register_device(&vf->core);
	if (err)
		vfio_put_device(&vf->core.vdev);
	return err;
}

static void igb_vf_remove(struct pci_dev *pdev)
{
	struct vfio_pci_core_device *core = dev_get_drvdata(&pdev->dev);

	vfio_pci_core_unregister_device(core);
	vfio_put_device(&core->vdev);
}

/* A function level reset sets the state to RUNNING and discards what was saved. */
static void igb_vf_reset_done(struct pci_dev *pdev)
{
	struct vfio_pci_core_device *core = dev_get_drvdata(&pdev->dev);
	struct igb_vf *vf = container_of(core, struct igb_vf, core);

	vf->mig_state = VFIO_DEVICE_STATE_RUNNING;
	vf->has_state = false;
	vf->from_elsewhere = false;
}

static const struct pci_error_handlers igb_vf_err_handlers = {
	.reset_done	= igb_vf_reset_done,
	.error_detected	= vfio_pci_core_aer_err_detected,
};

static const struct pci_device_id igb_vf_ids[] = {
	{ PCI_DRIVER_OVERRIDE_DEVICE_VFIO(PCI_VENDOR_ID_INTEL, 0x10ca) },
	{}
};
MODULE_DEVICE_TABLE(pci, igb_vf_ids);

static struct pci_driver igb_vfio_pci_driver = {
	.name			= "igb_vfio_pci",
	.id_table		= igb_vf_ids,
	.probe			= igb_vf_probe,
	.remove			= igb_vf_remove,
	.err_handler		= &igb_vf_err_handlers,
	.driver_managed_dma	= true,
};
module_pci_driver(igb_vfio_pci_driver);

MODULE_LICENSE("GPL");
MODULE_IMPORT_NS(IOMMUFD);
MODULE_DESCRIPTION("VFIO variant driver that migrates emulated 82576 VFs, for tests only");
