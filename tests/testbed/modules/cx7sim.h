/* SPDX-License-Identifier: GPL-2.0 */
#ifndef CX7SIM_H
#define CX7SIM_H

struct pci_dev;

/* Whether the port function of this VF is migratable now. */
bool cx7sim_vf_migratable(struct pci_dev *vf_pdev);

#endif
