#include "runtime/banks.h"

#include <algorithm>

#include "runtime/machine.h"

namespace simt {

BankCount bank_count;

constexpr unsigned kBanks = 32;

void count_banks(const uint32_t* addresses, unsigned mask, unsigned bytes) {
  const unsigned words = std::max(1u, bytes / 4), lanes_at_once = kLanes / words;
  ++bank_count.requests;
  for (unsigned first = 0; first < kLanes; first += lanes_at_once) {
    std::vector<uint32_t> seen[kBanks];
    size_t turns = 0;
    for (unsigned lane = first; lane < first + lanes_at_once; ++lane) {
      if ((mask >> lane & 1) == 0) continue;
      for (unsigned i = 0; i < words; ++i) {
        const uint32_t word = addresses[lane] / 4 + i;
        std::vector<uint32_t>& bank = seen[word % kBanks];
        if (std::find(bank.begin(), bank.end(), word) == bank.end()) bank.push_back(word);
        turns = std::max(turns, bank.size());
      }
    }
    bank_count.turns += turns;
    bank_count.conflicts += turns > 1 ? turns - 1 : 0;
  }
}

void note_bank_access(uint32_t address, unsigned bytes, bool write, const void* pc) {
  const Thread& thread = *machine.current;
  std::vector<BankSite>& sites = machine.warps[thread.warp].bank_sites;
  auto site = std::find_if(sites.begin(), sites.end(), [&](const BankSite& known) {
    return known.pc == pc && known.write == write && known.bytes == bytes;
  });
  if (site == sites.end()) site = sites.insert(sites.end(), {pc, write, bytes, {}, {}});
  const uint32_t turn = site->count[thread.lane]++;
  if (turn >= site->requests.size()) site->requests.resize(turn + 1);
  BankRequest& request = site->requests[turn];
  request.mask |= 1u << thread.lane;
  request.addresses[thread.lane] = address;
}

void finish_bank_accesses(unsigned warp) {
  for (const BankSite& site : machine.warps[warp].bank_sites) {
    for (const BankRequest& request : site.requests) count_banks(request.addresses, request.mask, site.bytes);
  }
  machine.warps[warp].bank_sites.clear();
}

}  // namespace simt
