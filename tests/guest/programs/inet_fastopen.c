#include "inet_common.h"
/* MSG_ZEROCOPY, MSG_FASTOPEN, TCP_FASTOPEN_CONNECT, SO_LINGER with a time. */
int main(void){
  int p[2],on=1; char b[64]; tcp_pair(p);
  TRY(setsockopt(p[0],SOL_SOCKET,60,&on,4));
  SHOW(send(p[0],"zc",2,0x4000000));
  usleep(1000);
  events("zc", p[0]);
  char c[256]; struct iovec iov={b,64}; struct msghdr m={.msg_iov=&iov,.msg_iovlen=1,.msg_control=c,.msg_controllen=sizeof c};
  SHOW(recvmsg(p[0],&m,MSG_ERRQUEUE)); printf("%x\n",m.msg_flags);
  for(struct cmsghdr*h=CMSG_FIRSTHDR(&m);h;h=CMSG_NXTHDR(&m,h)){printf("%d %d %d:",h->cmsg_level,h->cmsg_type,(int)h->cmsg_len);for(unsigned i=0;i<h->cmsg_len-16;i++)printf(" %02x",CMSG_DATA(h)[i]);printf("\n");}
  SHOW(recv(p[1],b,10,0));
  SHOW(send(p[1],"zc",2,0x4000000));
  int l=socket(AF_INET,SOCK_STREAM,0),q=5; int port=bound(l,"127.0.0.1"); 
  TRY(setsockopt(l,6,TCP_FASTOPEN,&q,4)); listen(l,4);
  int s=socket(AF_INET,SOCK_STREAM,0); struct sockaddr_in a=in4("127.0.0.1",port);
  SHOW(sendto(s,"fast",4,MSG_FASTOPEN,(void*)&a,sizeof a));
  int d=accept(l,0,0); SHOW(recv(d,b,10,0));
  int t=socket(AF_INET,SOCK_STREAM,0); TRY(setsockopt(t,6,TCP_FASTOPEN_CONNECT,&on,4));
  SHOW(connect(t,(void*)&a,sizeof a)); SHOW(send(t,"later",5,0)); d=accept(l,0,0); SHOW(recv(d,b,10,0));
  s=socket(AF_INET,SOCK_STREAM|SOCK_NONBLOCK,0);
  SHOW(sendto(s,"fast",4,MSG_FASTOPEN,(void*)&a,sizeof a));
  d=accept(l,0,0); fcntl(d,F_SETFL,O_NONBLOCK); usleep(2000); SHOW(recv(d,b,10,0));
  SHOW(sendto(s,"x",1,MSG_FASTOPEN,(void*)&a,sizeof a));
  s=socket(AF_INET,SOCK_STREAM,0);
  SHOW(sendto(s,"x",1,MSG_FASTOPEN,0,0));
  SHOW(sendto(s,"x",1,MSG_MORE|MSG_NOSIGNAL,0,0));
  struct linger lg={1,1}; tcp_pair(p); setsockopt(p[0],1,SO_LINGER,&lg,sizeof lg); write(p[0],"abc",3); SHOW(close(p[0])); SHOW(read(p[1],b,9)); SHOW(read(p[1],b,9));
  return 0;}
