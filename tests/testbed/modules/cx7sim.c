// SPDX-License-Identifier: GPL-2.0
/*
 * cx7sim - makes an emulated igb PF look like a ConnectX-7 at the kernel's boundary
 *
 * For tests only. On top of the igb PF it registers what mlx5 registers for its card: a devlink instance with an
 * eswitch mode and versions, an uplink port with the netdev p0, and under switchdev one pcivf port with a port
 * function and a representor netdev per VF.
 *
 * The representors carry real traffic. QEMU cables igb's wire to a second NIC of the host, "wire"; igb puts VF n into
 * the port VLAN WIRE_VLAN_BASE + n, so a frame of VF n appears on "wire" with that tag and is handed to representor n,
 * and what representor n sends leaves on "wire" with that tag and reaches VF n. The uplink passes through to a third
 * NIC, "uplink". Representors start and stop with their own admin state, as on the card.
 *
 * One card per host is enough here, so there is one instance. Only the usual reference counts keep the module from being
 * unloaded.
 */
#include <linux/etherdevice.h>
#include <linux/if_vlan.h>
#include <linux/module.h>
#include <linux/netdevice.h>
#include <linux/pci.h>
#include <linux/rtnetlink.h>
#include <net/devlink.h>
#include <net/net_namespace.h>

#include "cx7sim.h"

#define MAX_VFS		8
#define WIRE_VLAN_BASE	100
#define UPLINK_PORT	0xffff
#define UPLINK		(-1)	/* in struct port: not a VF */

static char *pf = "0000:01:00.0";
module_param(pf, charp, 0444);
MODULE_PARM_DESC(pf, "PCI address of the igb physical function");

static char *wire = "wire";
module_param(wire, charp, 0444);
MODULE_PARM_DESC(wire, "netdev that is cabled to the physical function");

static char *uplink = "uplink";
module_param(uplink, charp, 0444);
MODULE_PARM_DESC(uplink, "netdev that is cabled to the network");

static char *psid = "SIM_0000000834";
module_param(psid, charp, 0444);
MODULE_PARM_DESC(psid, "the card's fw.psid");

static char *fw_running = "28.43.1014";
/* writable, to simulate a card with another firmware */
module_param(fw_running, charp, 0644);
MODULE_PARM_DESC(fw_running, "the running fw.version");

static char *fw_stored = "28.43.1014";
module_param(fw_stored, charp, 0444);
MODULE_PARM_DESC(fw_stored, "the stored fw.version");

static bool vf_migration = true;
module_param(vf_migration, bool, 0444);
MODULE_PARM_DESC(vf_migration, "whether the firmware was configured with VF_MIGRATION_MODE=2");

/* A port of the eswitch with its netdev: the uplink, or the representor of a VF. */
struct port {
	struct devlink_port devlink_port;
	struct net_device *netdev;
	struct net_device *lower;	/* the NIC that sends its frames: "uplink" or "wire" */
	int vf;				/* or UPLINK */
};

struct port_priv {
	struct port *port;
};

/* The settings of a VF's port function. */
struct vf_function {
	u8 mac[ETH_ALEN];
	bool migratable;
	bool roce;
};

struct card {
	struct pci_dev *pdev;
	struct net_device *pf_netdev;
	struct net_device *wire;
	struct net_device *uplink;
	enum devlink_eswitch_mode mode;
	struct port uplink_port;
	struct port *representors[MAX_VFS];
	struct vf_function functions[MAX_VFS];
	/* a bit for each present VF; the PF's own number of VFs is late while VFs are created and removed */
	unsigned long present;
	struct delayed_work resync;
	struct notifier_block pci_notifier;
	/* igb's own operations, and the copy that answers in its place */
	const struct net_device_ops *igb_ops;
	struct net_device_ops pf_ops;
};

static struct devlink *devlink;
static struct card *card;

/* Called by the VFIO variant driver when it binds. */
bool cx7sim_vf_migratable(struct pci_dev *vf_pdev)
{
	int vf = pci_iov_vf_id(vf_pdev);

	if (!card || vf < 0 || vf >= MAX_VFS || pci_physfn(vf_pdev) != card->pdev)
		return false;
	return card->mode == DEVLINK_ESWITCH_MODE_SWITCHDEV && card->functions[vf].migratable;
}
EXPORT_SYMBOL_GPL(cx7sim_vf_migratable);

/* ---- VF settings through the PF's netdev, which libvirt uses ---- */

static int pf_set_vf_mac(struct net_device *netdev, int vf, u8 *mac)
{
	int err = card->igb_ops->ndo_set_vf_mac(card->pf_netdev, vf, mac);

	if (!err && vf < MAX_VFS)
		ether_addr_copy(card->functions[vf].mac, mac);
	return err;
}

/* As in mlx5: under switchdev the bridge sets the VLAN of a VF; 0 is accepted because libvirt sets it. */
static int pf_set_vf_vlan(struct net_device *netdev, int vf, u16 vlan, u8 qos, __be16 proto)
{
	if (card->mode == DEVLINK_ESWITCH_MODE_SWITCHDEV)
		return vlan ? -EOPNOTSUPP : 0;
	return card->igb_ops->ndo_set_vf_vlan(card->pf_netdev, vf, vlan, qos, proto);
}

static int pf_get_vf_config(struct net_device *netdev, int vf, struct ifla_vf_info *info)
{
	int err = card->igb_ops->ndo_get_vf_config(card->pf_netdev, vf, info);

	/* the port VLAN is not a setting of the host: this module distinguishes VFs by it */
	info->vlan = 0;
	return err;
}

/* ---- netdevs of the uplink and the representors ---- */

static struct port *netdev_port(struct net_device *netdev)
{
	return ((struct port_priv *)netdev_priv(netdev))->port;
}

static int port_open(struct net_device *netdev)
{
	netif_carrier_on(netdev);
	netif_start_queue(netdev);
	return 0;
}

static int port_stop(struct net_device *netdev)
{
	netif_stop_queue(netdev);
	netif_carrier_off(netdev);
	return 0;
}

static netdev_tx_t port_xmit(struct sk_buff *skb, struct net_device *netdev)
{
	struct port *port = netdev_port(netdev);

	dev_sw_netstats_tx_add(netdev, 1, skb->len);
	if (port->vf != UPLINK) {
		/* the inner tag is the frame's own, the outer one the VF's port VLAN */
		if (skb_vlan_tag_present(skb)) {
			skb = __vlan_hwaccel_push_inside(skb);
			if (!skb)
				return NETDEV_TX_OK;
		}
		__vlan_hwaccel_put_tag(skb, htons(ETH_P_8021Q), WIRE_VLAN_BASE + port->vf);
	}
	skb->dev = port->lower;
	skb_set_queue_mapping(skb, 0);
	dev_queue_xmit(skb);
	return NETDEV_TX_OK;
}

static const struct net_device_ops representor_ops = {
	.ndo_open		= port_open,
	.ndo_stop		= port_stop,
	.ndo_start_xmit		= port_xmit,
	.ndo_set_mac_address	= eth_mac_addr,
	.ndo_validate_addr	= eth_validate_addr,
};

static const struct net_device_ops uplink_ops = {
	.ndo_open		= port_open,
	.ndo_stop		= port_stop,
	.ndo_start_xmit		= port_xmit,
	.ndo_set_mac_address	= eth_mac_addr,
	.ndo_validate_addr	= eth_validate_addr,
	.ndo_set_vf_mac		= pf_set_vf_mac,
	.ndo_set_vf_vlan	= pf_set_vf_vlan,
	.ndo_get_vf_config	= pf_get_vf_config,
};

/* The port of a frame received on "wire" or "uplink", or NULL. */
static struct port *receiving_port(struct sk_buff *skb)
{
	int vf;

	if (skb->dev == card->uplink)
		return &card->uplink_port;
	if (!skb_vlan_tag_present(skb))
		return NULL;
	vf = skb_vlan_tag_get_id(skb) - WIRE_VLAN_BASE;
	__vlan_hwaccel_clear_tag(skb);
	if (vf < 0 || vf >= MAX_VFS)
		return NULL;
	return READ_ONCE(card->representors[vf]);
}

static rx_handler_result_t lower_receive(struct sk_buff **pskb)
{
	struct sk_buff *skb = *pskb;
	struct port *port = receiving_port(skb);

	if (!port || !port->netdev || !netif_running(port->netdev)) {
		kfree_skb(skb);
		return RX_HANDLER_CONSUMED;
	}
	if (skb->pkt_type == PACKET_OTHERHOST &&
	    ether_addr_equal(eth_hdr(skb)->h_dest, port->netdev->dev_addr))
		skb->pkt_type = PACKET_HOST;
	skb->dev = port->netdev;
	dev_sw_netstats_rx_add(port->netdev, skb->len);
	return RX_HANDLER_ANOTHER;
}

/* ---- devlink port functions ---- */

static struct vf_function *port_function(struct devlink_port *devlink_port)
{
	return &card->functions[devlink_port->attrs.pci_vf.vf];
}

static int function_hw_addr_get(struct devlink_port *port, u8 *addr, int *len, struct netlink_ext_ack *extack)
{
	ether_addr_copy(addr, port_function(port)->mac);
	*len = ETH_ALEN;
	return 0;
}

static int function_hw_addr_set(struct devlink_port *port, const u8 *addr, int len,
				struct netlink_ext_ack *extack)
{
	u8 mac[ETH_ALEN];
	int err;

	if (is_multicast_ether_addr(addr)) {
		NL_SET_ERR_MSG_MOD(extack, "Invalid MAC address");
		return -EINVAL;
	}
	ether_addr_copy(mac, addr);
	rtnl_lock();
	err = pf_set_vf_mac(NULL, port->attrs.pci_vf.vf, mac);
	rtnl_unlock();
	return err;
}

static int function_migratable_get(struct devlink_port *port, bool *enabled, struct netlink_ext_ack *extack)
{
	if (!vf_migration) {
		NL_SET_ERR_MSG_MOD(extack, "Device doesn't support migration");
		return -EOPNOTSUPP;
	}
	*enabled = port_function(port)->migratable;
	return 0;
}

static int function_migratable_set(struct devlink_port *port, bool enable, struct netlink_ext_ack *extack)
{
	if (!vf_migration) {
		NL_SET_ERR_MSG_MOD(extack, "Device doesn't support migration");
		return -EOPNOTSUPP;
	}
	port_function(port)->migratable = enable;
	return 0;
}

static int function_roce_get(struct devlink_port *port, bool *enabled, struct netlink_ext_ack *extack)
{
	*enabled = port_function(port)->roce;
	return 0;
}

static int function_roce_set(struct devlink_port *port, bool enable, struct netlink_ext_ack *extack)
{
	port_function(port)->roce = enable;
	return 0;
}

static const struct devlink_port_ops vf_port_ops = {
	.port_fn_hw_addr_get	= function_hw_addr_get,
	.port_fn_hw_addr_set	= function_hw_addr_set,
	.port_fn_migratable_get	= function_migratable_get,
	.port_fn_migratable_set	= function_migratable_set,
	.port_fn_roce_get	= function_roce_get,
	.port_fn_roce_set	= function_roce_set,
};

static const struct devlink_port_ops uplink_port_ops = {};

/* ---- making and removing ports; the devlink lock is held ---- */

static void port_set_attrs(struct port *port)
{
	struct devlink_port_attrs physical = { .flavour = DEVLINK_PORT_FLAVOUR_PHYSICAL };
	struct netdev_phys_item_id *switch_id = &port->devlink_port.attrs.switch_id;

	/* both setters read the switch id when they are called */
	if (port->vf == UPLINK) {
		physical.switch_id.id_len = ETH_ALEN;
		ether_addr_copy(physical.switch_id.id, card->pf_netdev->perm_addr);
		devlink_port_attrs_set(&port->devlink_port, &physical);
		return;
	}
	switch_id->id_len = ETH_ALEN;
	ether_addr_copy(switch_id->id, card->pf_netdev->perm_addr);
	devlink_port_attrs_pci_vf_set(&port->devlink_port, 0, PCI_FUNC(card->pdev->devfn), port->vf, false);
}

static struct net_device *port_alloc_netdev(struct port *port)
{
	bool is_uplink = port->vf == UPLINK;
	struct net_device *netdev;

	/* udev keeps a predictable name, and gives a representor one of its own from its phys_port_name */
	netdev = alloc_netdev(sizeof(struct port_priv), is_uplink ? "p0" : "eth%d",
			      is_uplink ? NET_NAME_PREDICTABLE : NET_NAME_ENUM, ether_setup);
	if (!netdev)
		return NULL;
	((struct port_priv *)netdev_priv(netdev))->port = port;
	netdev->netdev_ops = is_uplink ? &uplink_ops : &representor_ops;
	netdev->pcpu_stat_type = NETDEV_PCPU_STAT_TSTATS;
	netdev->min_mtu = ETH_MIN_MTU;
	netdev->max_mtu = 9000;
	if (is_uplink)
		eth_hw_addr_set(netdev, card->pf_netdev->dev_addr);
	else
		eth_hw_addr_random(netdev);
	netif_carrier_off(netdev);
	SET_NETDEV_DEV(netdev, &card->pdev->dev);
	SET_NETDEV_DEVLINK_PORT(netdev, &port->devlink_port);
	return netdev;
}

static int port_register(struct port *port, int vf)
{
	unsigned int index = vf == UPLINK ? UPLINK_PORT : vf + 1;
	int err;

	port->vf = vf;
	port->lower = vf == UPLINK ? card->uplink : card->wire;
	port_set_attrs(port);
	err = devl_port_register_with_ops(devlink, &port->devlink_port, index,
					  vf == UPLINK ? &uplink_port_ops : &vf_port_ops);
	if (err)
		return err;
	port->netdev = port_alloc_netdev(port);
	if (!port->netdev) {
		err = -ENOMEM;
		goto err_port;
	}
	err = register_netdev(port->netdev);
	if (err)
		goto err_netdev;
	return 0;

err_netdev:
	free_netdev(port->netdev);
	port->netdev = NULL;
err_port:
	devl_port_unregister(&port->devlink_port);
	return err;
}

static void port_unregister(struct port *port)
{
	struct net_device *netdev = port->netdev;

	unregister_netdev(netdev);
	devl_port_unregister(&port->devlink_port);
	port->netdev = NULL;
	free_netdev(netdev);
}

static void set_wire_vlan(int vf, u16 vlan)
{
	rtnl_lock();
	card->igb_ops->ndo_set_vf_vlan(card->pf_netdev, vf, vlan, 0, htons(ETH_P_8021Q));
	rtnl_unlock();
}

static int representor_add(int vf)
{
	struct port *port = kzalloc(sizeof(*port), GFP_KERNEL);
	int err;

	if (!port)
		return -ENOMEM;
	err = port_register(port, vf);
	if (err) {
		kfree(port);
		return err;
	}
	WRITE_ONCE(card->representors[vf], port);
	set_wire_vlan(vf, WIRE_VLAN_BASE + vf);
	return 0;
}

static void representor_remove(int vf)
{
	struct port *port = card->representors[vf];

	WRITE_ONCE(card->representors[vf], NULL);
	/* lower_receive() may still pass it a frame */
	synchronize_net();
	if (vf < pci_num_vf(card->pdev))
		set_wire_vlan(vf, 0);
	port_unregister(port);
	kfree(port);
}

static void function_reset(int vf)
{
	eth_zero_addr(card->functions[vf].mac);
	card->functions[vf].migratable = false;
	card->functions[vf].roce = true;
}

/* Make the representors match the mode and the number of VFs. */
static int representors_sync(void)
{
	bool switchdev = card->mode == DEVLINK_ESWITCH_MODE_SWITCHDEV;
	bool there;
	int vf, err;

	for (vf = 0; vf < MAX_VFS; vf++) {
		there = test_bit(vf, &card->present);
		if (!(there && switchdev) && card->representors[vf])
			representor_remove(vf);
		if (!there)
			function_reset(vf);
		if (there && switchdev && !card->representors[vf]) {
			err = representor_add(vf);
			if (err)
				return err;
		}
	}
	return 0;
}

static void resync_work(struct work_struct *work)
{
	devl_lock(devlink);
	representors_sync();
	devl_unlock(devlink);
}

/* VFs are created and removed through the PF's sriov_numvfs, which igb implements; the bus sends a notification. */
static int pci_event(struct notifier_block *nb, unsigned long event, void *data)
{
	struct pci_dev *pdev = to_pci_dev(data);
	int vf;

	if (event != BUS_NOTIFY_ADD_DEVICE && event != BUS_NOTIFY_REMOVED_DEVICE)
		return NOTIFY_DONE;
	if (!pdev->is_virtfn || pdev->physfn != card->pdev)
		return NOTIFY_DONE;
	vf = pci_iov_vf_id(pdev);
	if (vf < 0 || vf >= MAX_VFS)
		return NOTIFY_DONE;
	if (event == BUS_NOTIFY_REMOVED_DEVICE) {
		/* at once: VFs that are created next get new representors */
		devl_lock(devlink);
		clear_bit(vf, &card->present);
		representors_sync();
		devl_unlock(devlink);
		return NOTIFY_DONE;
	}
	set_bit(vf, &card->present);
	/* later: more VFs follow, and igb has not set them up yet */
	mod_delayed_work(system_wq, &card->resync, HZ / 10);
	return NOTIFY_DONE;
}

/* ---- devlink device ---- */

static int eswitch_mode_get(struct devlink *devlink, u16 *mode)
{
	*mode = card->mode;
	return 0;
}

static int eswitch_mode_set(struct devlink *devlink, u16 mode, struct netlink_ext_ack *extack)
{
	if (mode != DEVLINK_ESWITCH_MODE_LEGACY && mode != DEVLINK_ESWITCH_MODE_SWITCHDEV) {
		NL_SET_ERR_MSG_MOD(extack, "Unsupported E-Switch mode");
		return -EOPNOTSUPP;
	}
	card->mode = mode;
	return representors_sync();
}

static int info_running_put(struct devlink_info_req *req)
{
	int err;

	/* a write to the parameter frees the old text */
	kernel_param_lock(THIS_MODULE);
	err = devlink_info_version_running_put(req, DEVLINK_INFO_VERSION_GENERIC_FW, fw_running);
	if (!err)
		err = devlink_info_version_running_put(req, "fw.version", fw_running);
	kernel_param_unlock(THIS_MODULE);
	return err;
}

static int info_get(struct devlink *devlink, struct devlink_info_req *req, struct netlink_ext_ack *extack)
{
	int err;

	err = devlink_info_version_fixed_put(req, DEVLINK_INFO_VERSION_GENERIC_FW_PSID, psid);
	if (err)
		return err;
	err = info_running_put(req);
	if (err)
		return err;
	err = devlink_info_version_stored_put(req, DEVLINK_INFO_VERSION_GENERIC_FW, fw_stored);
	if (err)
		return err;
	return devlink_info_version_stored_put(req, "fw.version", fw_stored);
}

static const struct devlink_ops card_ops = {
	.eswitch_mode_get	= eswitch_mode_get,
	.eswitch_mode_set	= eswitch_mode_set,
	.info_get		= info_get,
};

/* ---- attaching to the lower NICs, and detaching ---- */

static struct net_device *lower_take(const char *name)
{
	struct net_device *netdev = dev_get_by_name(&init_net, name);
	int err;

	if (!netdev) {
		pr_err("cx7sim: no netdev %s\n", name);
		return NULL;
	}
	rtnl_lock();
	err = netdev_rx_handler_register(netdev, lower_receive, NULL);
	if (!err)
		err = dev_set_promiscuity(netdev, 1);
	rtnl_unlock();
	if (err) {
		dev_put(netdev);
		return NULL;
	}
	return netdev;
}

static void lower_give_back(struct net_device *netdev)
{
	if (!netdev)
		return;
	rtnl_lock();
	netdev_rx_handler_unregister(netdev);
	dev_set_promiscuity(netdev, -1);
	rtnl_unlock();
	dev_put(netdev);
}

static struct net_device *find_pf_netdev(struct pci_dev *pdev)
{
	struct net_device *netdev, *found = NULL;

	rtnl_lock();
	for_each_netdev(&init_net, netdev) {
		if (netdev->dev.parent == &pdev->dev) {
			dev_hold(netdev);
			found = netdev;
			break;
		}
	}
	rtnl_unlock();
	return found;
}

/* igb's own netdev stays beside p0, and libvirt may pick either: both must follow the switchdev rules. */
static void pf_ops_replace(void)
{
	card->igb_ops = card->pf_netdev->netdev_ops;
	card->pf_ops = *card->igb_ops;
	card->pf_ops.ndo_set_vf_mac = pf_set_vf_mac;
	card->pf_ops.ndo_set_vf_vlan = pf_set_vf_vlan;
	card->pf_ops.ndo_get_vf_config = pf_get_vf_config;
	rtnl_lock();
	card->pf_netdev->netdev_ops = &card->pf_ops;
	rtnl_unlock();
}

static void pf_ops_restore(void)
{
	rtnl_lock();
	card->pf_netdev->netdev_ops = card->igb_ops;
	rtnl_unlock();
}

static struct pci_dev *find_pf(void)
{
	unsigned int domain, bus, slot, function;

	if (sscanf(pf, "%x:%x:%x.%x", &domain, &bus, &slot, &function) != 4)
		return NULL;
	return pci_get_domain_bus_and_slot(domain, bus, PCI_DEVFN(slot, function));
}

static int card_alloc(struct pci_dev *pdev)
{
	int vf;

	devlink = devlink_alloc(&card_ops, sizeof(*card), &pdev->dev);
	if (!devlink)
		return -ENOMEM;
	card = devlink_priv(devlink);
	card->pdev = pdev;
	card->mode = DEVLINK_ESWITCH_MODE_LEGACY;
	for (vf = 0; vf < MAX_VFS; vf++)
		function_reset(vf);
	card->present = GENMASK(MAX_VFS - 1, 0) & (BIT(pci_num_vf(pdev)) - 1);
	INIT_DELAYED_WORK(&card->resync, resync_work);
	card->pf_netdev = find_pf_netdev(pdev);
	if (!card->pf_netdev || !card->pf_netdev->netdev_ops->ndo_set_vf_mac)
		return -ENODEV;
	return 0;
}

static void card_free(void)
{
	struct pci_dev *pdev = card->pdev;

	lower_give_back(card->wire);
	lower_give_back(card->uplink);
	if (card->pf_netdev)
		dev_put(card->pf_netdev);
	card = NULL;
	devlink_free(devlink);
	pci_dev_put(pdev);
}

static int card_register(void)
{
	int err;

	devl_lock(devlink);
	err = port_register(&card->uplink_port, UPLINK);
	if (!err)
		devl_register(devlink);
	devl_unlock(devlink);
	return err;
}

static int __init cx7sim_init(void)
{
	struct pci_dev *pdev = find_pf();
	int err;

	if (!pdev)
		return -ENODEV;
	err = card_alloc(pdev);
	if (err)
		goto err_card;
	card->wire = lower_take(wire);
	card->uplink = lower_take(uplink);
	if (!card->wire || !card->uplink) {
		err = -ENODEV;
		goto err_card;
	}
	pf_ops_replace();
	err = card_register();
	if (err)
		goto err_ops;
	card->pci_notifier.notifier_call = pci_event;
	bus_register_notifier(&pci_bus_type, &card->pci_notifier);
	return 0;

err_ops:
	pf_ops_restore();
err_card:
	if (card)
		card_free();
	else
		pci_dev_put(pdev);
	return err;
}

static void __exit cx7sim_exit(void)
{
	bus_unregister_notifier(&pci_bus_type, &card->pci_notifier);
	cancel_delayed_work_sync(&card->resync);
	devl_lock(devlink);
	devl_unregister(devlink);
	card->mode = DEVLINK_ESWITCH_MODE_LEGACY;
	representors_sync();
	port_unregister(&card->uplink_port);
	devl_unlock(devlink);
	pf_ops_restore();
	card_free();
}

module_init(cx7sim_init);
module_exit(cx7sim_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("ConnectX-7 look-alike over an emulated igb PF, for tests only");
